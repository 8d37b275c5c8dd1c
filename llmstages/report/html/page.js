"use strict";
// What is under the pointer, in a box beside it. All of it stands in tables too.
const tip = document.getElementById("tip");
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });

function show(event, lines) {
  tip.replaceChildren(...lines.map(line => {
    const row = document.createElement("div");
    row.dir = "auto";
    row.textContent = line;
    return row;
  }));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
  const top = event.clientY + 14 + height > innerHeight ? event.clientY - height - 14 : event.clientY + 14;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, top) + "px";
}

function curves(svg) {
  return [...svg.querySelectorAll("polyline[data-values]")].map(line => ({
    name: line.dataset.name,
    places: [...line.points].map(point => point.x),
    values: JSON.parse(line.dataset.values),
  }));
}

for (const svg of document.querySelectorAll("svg.chart")) {
  // A title inside would be shown by the browser as well.
  const title = svg.querySelector("title"), guide = svg.querySelector(".guide");
  svg.setAttribute("aria-label", title.textContent);
  title.remove();
  let lines = null;

  function look(event) {
    const marked = event.target.closest("[data-tip]");
    if (marked) return show(event, [marked.dataset.tip]);
    if (!guide) return leave();
    lines ??= curves(svg);
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const near = lines.map(({ name, places, values }) => {
      let best = 0;
      places.forEach((place, index) => {
        if (Math.abs(place - x) < Math.abs(places[best] - x)) best = index;
      });
      return { name, place: places[best], at: values[best] };
    });
    if (!near.length) return leave();
    const first = near.reduce((a, b) => Math.abs(a.place - x) <= Math.abs(b.place - x) ? a : b);
    guide.setAttribute("x1", first.place);
    guide.setAttribute("x2", first.place);
    guide.setAttribute("visibility", "visible");
    show(event, [`at ${number.format(first.at[0])}`, ...near.map(({ name, at }) =>
      `${name}: ${number.format(at[1])}` + (at[0] === first.at[0] ? "" : ` (at ${number.format(at[0])})`))]);
  }

  function leave() {
    tip.hidden = true;
    guide?.setAttribute("visibility", "hidden");
  }

  svg.addEventListener("pointermove", look);
  svg.addEventListener("pointerdown", look);
  svg.addEventListener("pointerleave", leave);
}

// A link to a run that is folded up unfolds it.
function unfold() {
  const part = document.getElementById(location.hash.slice(1));
  if (part?.matches("details")) part.open = true;
}
addEventListener("hashchange", unfold);
unfold();
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
