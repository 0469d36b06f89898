// What was typed in here is not there when one comes back. By itself for pages that need no more.

for (const input of document.querySelectorAll("[data-forgets]")) {
  addEventListener("pagehide", () => (input.value = ""));
}
