// <contents-list><nav class="contents">…</nav></contents-list>: marks the section that is being read.
customElements.define(
  "contents-list",
  class extends HTMLElement {
    connectedCallback() {
      const links = [...this.querySelectorAll("a[href^='#']")];
      const sections = links.map((link) => document.getElementById(link.hash.slice(1))).filter(Boolean);
      const seen = new Set();
      this.observer = new IntersectionObserver(
        (entries) => {
          for (const entry of entries) entry.isIntersecting ? seen.add(entry.target) : seen.delete(entry.target);
          const first = sections.find((section) => seen.has(section));
          if (!first) return;
          for (const link of links)
            link.hash === `#${first.id}` ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
        },
        { rootMargin: "-64px 0px -55% 0px" },
      );
      for (const section of sections) this.observer.observe(section);
    }

    disconnectedCallback() {
      this.observer?.disconnect();
    }
  },
);
