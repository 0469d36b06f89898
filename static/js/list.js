// The list of keys: selection, and menus of rows.

// --- Selected keys ------------------------------------------------------------------------------

const form = document.getElementById("selection");
if (form) {
  const boxes = [...document.querySelectorAll('input[form="selection"]')];
  const all = document.querySelector("[data-selects-all]");
  const state = form.querySelector(".selected");
  const update = () => {
    const number = boxes.filter((box) => box.checked).length;
    form.hidden = number === 0;
    state.textContent = number === 0 ? "" : number === 1 ? state.dataset.one : state.dataset.many.replace("%s", number);
    all.checked = number === boxes.length;
    all.indeterminate = number > 0 && number < boxes.length;
  };
  form.classList.add("is-floating");
  all.hidden = false;
  all.addEventListener("change", () => {
    for (const box of boxes) box.checked = all.checked;
    update();
  });
  for (const box of boxes) box.addEventListener("change", update);
  // Browsers keep what was checked when one comes back.
  addEventListener("pageshow", update);
  update();
}

// --- Menus: `name` closes one when another is opened --------------------------------------------

const menus = [...document.querySelectorAll("details.row-menu")];
const closeOthers = (target) => {
  for (const menu of menus) if (!menu.contains(target)) menu.open = false;
};
for (const menu of menus) {
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}
if (menus.length) {
  document.addEventListener("click", (event) => closeOthers(event.target));
  document.addEventListener("focusin", (event) => closeOthers(event.target));
}
