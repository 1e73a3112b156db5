// Before the first paint: the reader's choice of paper or lamp, if there is one. Loaded without defer for that reason.
try {
  const theme = localStorage.getItem("daybook-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is refused: follow the system.
}
document.documentElement.classList.add("js");
