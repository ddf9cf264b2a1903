"use strict";
(() => {
  /* A growing report: says how far its comparison is, and opens itself anew when more rows are there, where the reader was. */

  const QUIET = 2000;
  const was = JSON.parse(document.getElementById("underway").textContent)[0], place = `expunge-place-${was.id}`;
  const banner = document.querySelector(".underway"), part = (name) => banner.querySelector(`.underway-${name}`), auto = part("auto");
  const stored = (act) => { try { return act(sessionStorage); } catch { return null; } };
  const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
  let touched = -Infinity, wanted = null, timer = null, leaving = false;

  /* What the reader has set, by names that a page with more rows has too. */

  const ownerOf = (element) => element.closest("article")?.id ?? "";
  const CONTROLS = "article select, article input:not([type=radio]):not([type=range])";

  function keysOf(elements, name) {
    const seen = new Map();
    return [...elements].map((element) => {
      const key = `${ownerOf(element)} ${name(element)}`, count = seen.get(key) ?? 0;
      seen.set(key, count + 1);
      return [`${key} ${count}`, element];
    });
  }

  const groups = {
    controls: () => keysOf(document.querySelectorAll(CONTROLS), (element) => element.className),
    radios: () => keysOf(document.querySelectorAll("article input[type=radio]"), (element) => `${element.name} ${element.className} ${element.value}`),
    ranges: () => keysOf(document.querySelectorAll("article input[type=range]"), (element) => element.className),
    details: () => keysOf(document.querySelectorAll("details"), (element) => `${element.closest("section, aside")?.className} ${element.className} ${(element.querySelector("summary strong") ?? element.querySelector("summary"))?.textContent.trim()}`),
    unfolds: () => keysOf(document.querySelectorAll(".unfold"), (element) => element.closest("tbody").dataset.row),
    heads: () => keysOf(document.querySelectorAll(".results thead th"), (element) => element.dataset.metric ?? element.textContent.trim()),
    scrolls: () => keysOf(document.querySelectorAll(".scroll"), (element) => element.getAttribute("aria-label")),
    anchors: () => keysOf(document.querySelectorAll("article h1, article h2, article h3, .verdicts > li, .results tbody.method, figure"), (element) => element.dataset.row ?? element.querySelector("strong")?.textContent ?? element.querySelector(".chart")?.dataset.chart ?? `${element.closest("section")?.id} ${element.textContent.trim()}`),
    buttons: () => keysOf(document.querySelectorAll("a, button, summary, input, select"), (element) => `${element.tagName} ${element.closest("[data-row]")?.dataset.row ?? ""} ${element.className} ${element.textContent.trim().slice(0, 60)}`),
  };
  const noted = (group, value) => Object.fromEntries(groups[group]().map(([key, element]) => [key, value(element)]).filter(([, held]) => held !== null));

  function whereabouts() {
    const top = 90, anchors = groups.anchors().map(([key, element]) => [key, element.getBoundingClientRect().top]);
    const anchor = anchors.filter(([, y]) => y <= top).at(-1) ?? anchors[0], focus = groups.buttons().find(([, element]) => element === document.activeElement);
    return {
      controls: noted("controls", (element) => (element.type === "checkbox" ? element.checked : element.value)),
      radios: noted("radios", (element) => element.checked || null),
      ranges: noted("ranges", (element) => Number(element.value)),
      details: noted("details", (element) => element.open),
      unfolds: noted("unfolds", (element) => element.getAttribute("aria-expanded") === "true" || null),
      heads: noted("heads", (element) => (/ending$/.test(element.getAttribute("aria-sort")) ? element.getAttribute("aria-sort") : null)),
      scrolls: noted("scrolls", (element) => element.scrollLeft || null),
      anchor: scrollY > 0 ? anchor : null, focus: focus && focus[1].matches(":focus-visible") ? focus[0] : null, across: scrollX,
    };
  }

  function settle(held) {
    const each = (group, act) => { for (const [key, element] of groups[group]()) if (key in held[group]) act(element, held[group][key]); };
    const changed = (element, kind = "change") => element.dispatchEvent(new Event(kind, { bubbles: true }));
    each("radios", (element) => { if (!element.checked) { element.checked = true; changed(element); } });
    each("controls", (element, value) => {
      if (element.type === "checkbox" ? element.checked === value : element.value === value) return;
      if (element.tagName === "SELECT" && ![...element.options].some((option) => option.value === value)) return;
      if (element.type === "checkbox") element.checked = value; else element.value = value;
      changed(element, element.type === "search" ? "input" : "change");
    });
    each("ranges", (element, value) => { if (Number(element.value) !== value) { element.value = value; changed(element, "input"); } });
    each("heads", (element, order) => { for (let click = 0; click < 2 && element.getAttribute("aria-sort") !== order; click++) element.querySelector("button").click(); });
    each("details", (element, open) => { element.open = open; });
    each("unfolds", (element) => { if (element.getAttribute("aria-expanded") !== "true") element.click(); });
    each("scrolls", (element, left) => { element.scrollLeft = left; });
    if (held.focus) groups.buttons().find(([key]) => key === held.focus)?.[1].focus({ preventScroll: true });
    const anchor = held.anchor && groups.anchors().find(([key]) => key === held.anchor[0]);
    if (anchor) scrollTo({ left: held.across, top: scrollY + anchor[1].getBoundingClientRect().top - held.anchor[1], behavior: "instant" });
  }

  /* Not while the reader is doing something, or has words selected. */

  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchmove", "input"]) addEventListener(kind, () => { touched = performance.now(); }, { passive: true, capture: true });

  function go() {
    if (leaving || !wanted) return;
    leaving = true;
    if (wanted.result) {
      const top = [...document.querySelectorAll("article section")].filter((section) => section.getBoundingClientRect().top <= 120).at(-1);
      location.replace(`/report/${encodeURIComponent(wanted.result)}${top ? `#${top.id}` : ""}`);
      return;
    }
    stored((storage) => storage.setItem(place, JSON.stringify(whereabouts())));
    location.reload();
  }

  function soon() {
    clearTimeout(timer);
    if (!wanted || !auto.checked) return;
    const selected = !document.hidden && !(getSelection()?.isCollapsed ?? true), rest = document.hidden ? 0 : QUIET - (performance.now() - touched);
    if (selected || rest > 0) timer = setTimeout(soon, selected ? QUIET : rest);
    else go();
  }

  /* What the server says. */

  const counted = ([there, all], one, many) => `${there} of ${all} ${all === 1 ? one : many}`;
  const STATES = { running: "In progress", stopped: "Stopped", done: "Finished" };

  function toCome(now) {
    const several = now.requests.length > 1, lines = [];
    for (const request of now.requests) {
      const before = several ? `${request.title}: ` : "";
      if (request.lost) { lines.push(`${before}nothing can be judged; ${request.lost}`); continue; }
      if (!request.ready) lines.push(`${before}${counted(request.references, "original or retrained model", "originals and retrained models")}`);
      for (const row of request.rows) if (!row.whole) lines.push(`${before}${row.name}: ${row.seeds[0] === row.seeds[1] ? "being looked into" : counted(row.seeds, "seed", "seeds")}`);
    }
    if (!lines.length && now.requests.some((request) => request.pools)) lines.push("The tier's pools of models, and the tests that rest on them.");
    return lines.length ? lines : ["The finished report."];
  }

  function news(now) {
    if (now.result) return ["The comparison is finished: ", "open the whole report"];
    const more = now.shown - was.shown;
    if (now.page > was.page) return [more > 0 ? `${more} more ${more === 1 ? "row is" : "rows are"} there: ` : "There is a newer page: ", "show"];
    if (now.state === "stopped") return ["Nobody works on it any more. To go on, run again: " + now.command];
    return now.problem ? [`The report could not be written anew: ${now.problem}`] : [];
  }

  function show(now) {
    banner.classList.toggle("stopped", now.state === "stopped");
    part("state").textContent = STATES[now.state];
    document.querySelector(".underway-word").textContent = STATES[now.state].toLowerCase();
    part("bar").hidden = now.state === "done";
    part("rule").hidden = now.state === "done";
    if (now.state !== "done") {
      document.querySelector(".underway-brief").textContent = counted(now.rows, "row", "rows");
      part("counts").textContent = `${counted(now.rows, "row", "rows")}, ${counted(now.jobs, "job", "jobs")}`;
      Object.assign(part("bar"), { max: now.jobs[1] || 1, value: now.jobs[0] });
      const lines = toCome(now);
      if (part("list").textContent !== lines.join("")) part("list").replaceChildren(...lines.map((line) => make("li", line)));
    }
    const [words = "", action] = news(now), told = part("news");
    if (told.dataset.words !== words) {
      told.dataset.words = words;
      told.replaceChildren(words);
      if (action) {
        const button = Object.assign(make("button", action), { type: "button", className: "link" });
        button.addEventListener("click", go);
        told.append(button);
      }
    }
    wanted = now.result || now.page > was.page ? now : null;
    soon();
  }

  stored((storage) => { auto.checked = storage.getItem("expunge-auto") !== "no"; });
  auto.addEventListener("change", () => { stored((storage) => storage.setItem("expunge-auto", auto.checked ? "yes" : "no")); soon(); });
  document.addEventListener("visibilitychange", soon);

  function listen() {
    const source = new EventSource("/events");
    source.onmessage = (event) => {
      const now = JSON.parse(event.data).comparisons.find((one) => one.id === was.id);
      if (now) show(now);
    };
    source.onerror = () => { if (!leaving && source.readyState !== EventSource.OPEN) part("state").textContent = "The server has ended"; };
    addEventListener("pagehide", () => source.close());
  }

  /* The page prepares itself first; its figures are drawn later, in places of fixed heights. */
  function begin() {
    const held = stored((storage) => JSON.parse(storage.getItem(place) ?? "null"));
    stored((storage) => storage.removeItem(place));
    if (held) settle(held);
    show(was);
    listen();
    document.documentElement.dataset.follows = "yes";
  }
  if (stored((storage) => storage.getItem(place))) history.scrollRestoration = "manual";
  const root = document.documentElement;
  if (root.dataset.ready) begin();
  else new MutationObserver((_, observer) => { if (root.dataset.ready) { observer.disconnect(); begin(); } }).observe(root, { attributeFilter: ["data-ready"] });
})();
