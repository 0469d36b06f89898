// Swagger UI is dark by a class on <html>.

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const update = () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  if (root.classList.contains("dark-mode") !== isDark) root.classList.toggle("dark-mode", isDark);
};
update();
system.addEventListener("change", update);
// Swagger UI follows the system by itself, also where the person chose otherwise.
new MutationObserver(update).observe(root, { attributeFilter: ["class"] });
