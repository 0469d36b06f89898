// Waits for the first use of a key, as long as the page is visible.

const FIRST_DELAY = 1000;
// Together with the time until the server has written the use: within 5 seconds.
const LONGEST_DELAY = 3000;
const GROWTH = 1.25;
const GIVE_UP_AFTER = 15 * 60 * 1000;

function waitForFirstUse(step) {
  let since = Date.now();
  let delay = FIRST_DELAY;
  let timer = null;
  let isOver = false;

  const find = (name) => step.querySelector(`[data-${name}]`);
  const end = () => {
    isOver = true;
    clearTimeout(timer);
  };
  const giveUp = () => {
    end();
    step.classList.remove("is-waiting");
    find("hint").hidden = true;
    find("gave-up").hidden = false;
  };
  const connect = (text) => {
    end();
    step.classList.replace("is-waiting", "is-connected");
    find("waiting").hidden = true;
    find("hint").hidden = true;
    find("connected").hidden = false;
    find("connected").textContent = text;
  };

  const ask = async () => {
    clearTimeout(timer);
    if (isOver || document.hidden) return;
    if (Date.now() - since > GIVE_UP_AFTER) return giveUp();
    try {
      const response = await fetch(step.dataset.firstUse, { headers: { Accept: "application/json" }, redirect: "error" });
      if (response.ok) {
        const { text } = await response.json();
        if (text) return connect(text);
      } else if (response.status < 500) {
        // Deleted, or the user has logged out.
        return giveUp();
      }
    } catch {
      // Not reachable, or a redirect to the login page: asked again until it is given up.
    }
    if (isOver) return;
    clearTimeout(timer);
    timer = setTimeout(ask, delay);
    delay = Math.min(delay * GROWTH, LONGEST_DELAY);
  };

  step.classList.add("is-waiting");
  document.addEventListener("visibilitychange", () => {
    since = Date.now();
    delay = FIRST_DELAY;
    ask();
  });
  timer = setTimeout(ask, delay);
}

for (const step of document.querySelectorAll("[data-first-use]")) waitForFirstUse(step);
