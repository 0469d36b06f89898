// Reload the page once when the login has ended: the reload leads to the login, and back.
//
// The page asks about unsaved workflows first, as before each reload.
import { api } from "../../scripts/api.js";

const ENDED = ["SESSION_ENDED", "UNAUTHORIZED"];
// When the page was reloaded. Kept over the reload: a page that is shown, while its requests are refused,
// must not reload forever.
const RELOADED = "platform_login.reloaded";
const AGAIN_AFTER = 60_000;

async function hasEnded(response) {
  if (response.status !== 401) return false;
  try {
    // Custom nodes may answer 401 for reasons of their own.
    return ENDED.includes((await response.clone().json()).error);
  } catch {
    return false;
  }
}

const fetchApi = api.fetchApi.bind(api);
api.fetchApi = async (...request) => {
  const response = await fetchApi(...request);
  if (await hasEnded(response)) {
    if (!sessionStorage.getItem(RELOADED)) {
      sessionStorage.setItem(RELOADED, Date.now());
      location.reload();
    }
  } else if (response.ok && Date.now() - sessionStorage.getItem(RELOADED) > AGAIN_AFTER) {
    sessionStorage.removeItem(RELOADED);
  }
  return response;
};

// A WebSocket that can't connect has no status, so ask. Also when a tab is shown again.
const ask = () => api.fetchApi("/prompt").catch(() => {});
api.addEventListener("reconnecting", ask);
document.addEventListener("visibilitychange", () => document.hidden || ask());
