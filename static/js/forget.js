// What was typed in here is not there when one comes back. For pages that need no more than that
// (site.js does it for all others).

for (const input of document.querySelectorAll("[data-forgets]")) {
  addEventListener("pagehide", () => (input.value = ""));
}
