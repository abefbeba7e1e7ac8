// Runs before the first paint, so that a remembered theme does not flash. A classic script for that reason.
"use strict";

{
  const KEY = "cinnabar-theme";
  const root = document.documentElement;
  const systemDark = matchMedia("(prefers-color-scheme: dark)");

  /** Storage may be forbidden; the theme then lasts as long as the page. */
  const remember = (theme) => {
    try {
      if (theme === undefined) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, theme);
    } catch {
      // nothing to do: see above
    }
  };
  const recall = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };
  const current = () => root.dataset.theme ?? (systemDark.matches ? "dark" : "light");
  const label = () => {
    const button = document.getElementById("theme");
    if (button === null) return;
    const other = current() === "dark" ? "light" : "dark";
    button.setAttribute("aria-label", `Use the ${other} theme`);
    button.title = `Use the ${other} theme`;
  };

  const remembered = recall();
  if (remembered === "dark" || remembered === "light") root.dataset.theme = remembered;

  document.addEventListener("DOMContentLoaded", () => {
    label();
    systemDark.addEventListener("change", label);
    document.getElementById("theme")?.addEventListener("click", () => {
      const next = current() === "dark" ? "light" : "dark";
      // Whoever chooses what the system says follows the system again.
      if ((next === "dark") === systemDark.matches) {
        delete root.dataset.theme;
        remember(undefined);
      } else {
        root.dataset.theme = next;
        remember(next);
      }
      label();
    });
  });
}
