// <relative-time><time datetime="…">…</time></relative-time>: "3 s ago", kept fresh. And for every <time>: the reader's own zone
// joins the UTC instant on hover.
{
  const UNITS = [
    [60, 1, "s"],
    [3600, 60, "min"],
    [172800, 3600, "h"],
    [Infinity, 86400, "days"],
  ];

  const words = (date) => {
    const seconds = (Date.now() - date) / 1000;
    const amount = Math.abs(seconds);
    if (amount < 1) return "now";
    const [, size, unit] = UNITS.find(([limit]) => amount < limit);
    const text = `${Math.floor(amount / size)}\u2009${unit}`;
    return seconds > 0 ? `${text} ago` : `in ${text}`;
  };

  customElements.define(
    "relative-time",
    class extends HTMLElement {
      connectedCallback() {
        this.show();
        this.timer = setInterval(() => this.show(), 1000);
      }
      disconnectedCallback() {
        clearInterval(this.timer);
      }
      show() {
        const time = this.querySelector("time");
        if (!time || document.hidden) return;
        const text = words(new Date(time.dateTime));
        if (time.textContent !== text) time.textContent = text;
      }
    },
  );

  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
  document.addEventListener("mouseover", (event) => {
    const time = event.target.closest?.("time[datetime]");
    if (!time || "local" in time.dataset) return;
    time.dataset.local = "";
    const date = new Date(time.dateTime);
    if (!Number.isNaN(date.getTime())) time.title = `${time.title}\n${local.format(date)} here`;
  });
}
