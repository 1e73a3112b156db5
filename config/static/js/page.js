// What every page does: "/" focuses the search box, menus close on Escape and on a click elsewhere, the first faulty field gets the
// focus, and HTMX sends Django's CSRF token.
{
  const typing = (target) => target.closest("input, textarea, select, [contenteditable]");

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details.menu[open]")) {
        menu.open = false;
        menu.querySelector("summary").focus();
      }
    }
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    const field = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (field) {
      event.preventDefault();
      field.focus();
      field.select?.();
    }
  });

  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });

  // A <select data-submit> or checkbox in a filter form acts at once; without scripts the form's button does.
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
  });

  document.addEventListener("htmx:configRequest", (event) => {
    const token = document.querySelector("[name=csrfmiddlewaretoken]")?.value;
    if (token && event.detail.verb !== "get") event.detail.headers["X-CSRFToken"] = token;
  });

  // A fragment that can't be had says so where it would have stood.
  for (const name of ["htmx:responseError", "htmx:sendError"])
    document.addEventListener(name, (event) => {
      const place = event.detail.target;
      if (!place || place.hasAttribute("data-silent")) return;
      const status = event.detail.xhr?.status;
      const notice = document.createElement("p");
      notice.className = "notice";
      notice.dataset.kind = "fail";
      notice.setAttribute("role", "alert");
      notice.textContent = status ? `The server answered ${status}. What you see may be old; reload the page.` : "The server can't be reached.";
      place.querySelector(":scope > .notice[data-kind=fail]")?.remove();
      place.prepend(notice);
    });

  document.querySelector("[aria-invalid=true]")?.focus();
}
