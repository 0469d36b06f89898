// A menu that is a <details> closes as a popover does: by Escape, or by a click elsewhere.

for (const menu of document.querySelectorAll("details[data-closes]")) {
  const close = () => (menu.open = false);
  document.addEventListener("click", (event) => menu.contains(event.target) || close());
  menu.addEventListener("focusout", (event) => event.relatedTarget && !menu.contains(event.relatedTarget) && close());
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    close();
    menu.querySelector("summary").focus();
  });
}
