// Tabs (WAI-ARIA Authoring Practices). Without this script they are links to sections of the page.

for (const list of document.querySelectorAll("[data-tabs]")) {
  const tabs = [...list.querySelectorAll("[data-panel]")];
  const panelOf = (tab) => document.getElementById(tab.dataset.panel);

  const select = (chosen) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      panelOf(tab).toggleAttribute("data-selected", tab === chosen);
    }
  };

  const choose = (tab) => {
    select(tab);
    const url = new URL(tab.href);
    url.hash = "";
    history.replaceState(history.state, "", url);
    // The response remembers the choice in a cookie.
    fetch(url, { method: "HEAD", keepalive: true }).catch(() => {});
  };

  list.setAttribute("role", "tablist");
  for (const tab of tabs) {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", tab.dataset.panel);
    panelOf(tab).setAttribute("role", "tabpanel");
    panelOf(tab).setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      choose(tab);
    });
  }
  const initial = tabs.find((tab) => panelOf(tab).matches(":target"));
  select(initial ?? tabs.find((tab) => tab.ariaCurrent) ?? tabs[0]);
  for (const tab of tabs) tab.removeAttribute("aria-current");

  list.addEventListener("keydown", (event) => {
    const forward = getComputedStyle(list).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    const at = tabs.indexOf(document.activeElement);
    const to = { Home: 0, End: tabs.length - 1 }[event.key]
      ?? (event.key === forward ? at + 1 : /^Arrow(Left|Right)$/.test(event.key) ? at - 1 : undefined);
    if (to === undefined) return;
    event.preventDefault();
    const tab = tabs.at(to % tabs.length);
    tab.focus();
    choose(tab);
  });
}
