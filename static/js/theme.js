// The theme changes at once; the server remembers it, and without this script it does both.

for (const form of document.querySelectorAll(".themes")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = event.submitter.value;
    const root = document.documentElement;
    if (chosen === "system") delete root.dataset.theme;
    else root.dataset.theme = chosen;
    document.querySelector('meta[name="color-scheme"]').content = chosen === "system" ? "light dark" : chosen;
    for (const button of document.querySelectorAll(".themes button")) {
      button.setAttribute("aria-pressed", String(button.value === chosen));
    }
    // The cookie is set by the response, which redirects to a page that is not needed.
    const body = new FormData(form, event.submitter);
    fetch(form.action, { method: "POST", body, redirect: "manual", keepalive: true }).catch(() => {});
  });
}
