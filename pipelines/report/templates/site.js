"use strict";
/* Sorting, filtering and before/after sliders. Without this script, everything can still be read. */
document.documentElement.classList.add("js");

document.addEventListener("DOMContentLoaded", () => {
  const tables = [...document.querySelectorAll("table[data-sortable]")].map(sortable);
  const filtered = tables.find(table => table.element.hasAttribute("data-filtered"));
  if (filtered) filterable(filtered);
  compare();
  openTarget();
  addEventListener("hashchange", openTarget);
});

/* Sort buttons in the headers; cells without a number go last in either direction. */
function sortable(element) {
  const body = element.tBodies[0];
  const rows = [...body.rows];
  const table = { element, rows, column: null, descending: false, changed: () => {} };
  const headers = [...element.tHead.rows[0].cells];
  const number = cell => (cell.dataset.v === "" ? NaN : Number(cell.dataset.v ?? cell.textContent));
  const text = new Intl.Collator("en", { numeric: true });

  table.sort = (column, descending) => {
    const header = headers[column];
    if (column !== null && !header?.dataset.sort) return;
    table.column = column;
    table.descending = descending;
    headers.forEach((each, index) => {
      if (!each.dataset.sort) return;
      const order = index !== column ? "none" : descending ? "descending" : "ascending";
      each.setAttribute("aria-sort", order);
    });
    const sign = descending ? -1 : 1;
    const ordered = column === null ? rows : header.dataset.sort === "text"
      ? [...rows].sort((a, b) =>
          sign * text.compare(a.cells[column].textContent, b.cells[column].textContent))
      : rows.map(row => [number(row.cells[column]), row])
          .sort(([a], [b]) => isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : sign * (a - b))
          .map(([, row]) => row);
    body.append(...ordered);
  };

  headers.forEach((header, index) => {
    if (!header.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...[...header.childNodes].filter(node => node.nodeName !== "SMALL"));
    header.prepend(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      table.sort(index, table.column === index && !table.descending);
      table.changed();
    });
  });
  table.name = column => headers[column].textContent.trim();
  table.find = name => headers.findIndex(each => each.dataset.sort && slug(each) === name);
  table.key = column => slug(headers[column]);
  return table;
}

function slug(header) {
  return header.textContent.trim().toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
}

/* The filter and the order are in the address, so that a view can be shared. */
function filterable(table) {
  const form = document.querySelector("form.filter");
  const count = document.querySelector(".count");
  const { q, kind, status } = form.elements;
  const known = table.rows.map(row => ({
    row,
    name: row.querySelector("th a").textContent.toLowerCase(),
  }));

  function apply() {
    const wanted = q.value.trim().toLowerCase();
    let shown = 0;
    for (const { row, name } of known) {
      const fits = name.includes(wanted)
        && (!kind.value || row.dataset.kind === kind.value)
        && (!status.value || row.dataset.status === status.value);
      row.hidden = !fits;
      shown += fits;
    }
    const order = table.column === null ? ""
      : `, by ${table.name(table.column)}, ${table.descending ? "descending" : "ascending"}`;
    const all = known.length;
    count.textContent = `${shown === all ? all : `${shown} of ${all}`} concept${all === 1 ? "" : "s"}${order}`;
  }

  function remember() {
    const state = new URLSearchParams();
    if (q.value) state.set("q", q.value);
    if (kind.value) state.set("kind", kind.value);
    if (status.value) state.set("status", status.value);
    if (table.column !== null) {
      state.set("sort", table.key(table.column));
      if (table.descending) state.set("order", "descending");
    }
    history.replaceState(null, "", `#${state}`);
    apply();
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    // The address names a place in the page, not a view.
    if (location.hash && ![...state.values()].some(Boolean)) return;
    q.value = state.get("q") ?? "";
    kind.value = state.get("kind") ?? "";
    status.value = state.get("status") ?? "";
    if (kind.selectedIndex < 0) kind.value = "";
    if (status.selectedIndex < 0) status.value = "";
    const column = table.find(state.get("sort"));
    table.sort(column < 0 ? null : column, state.get("order") === "descending");
    apply();
  }

  form.hidden = false;
  form.addEventListener("input", remember);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => {
    table.sort(null, false);
    setTimeout(remember);
  });
  table.changed = remember;
  addEventListener("hashchange", recall);
  recall();
}

/* One image over the other, with a slider for how much of the first is shown. */
function compare() {
  const sliders = [...document.querySelectorAll(".pair[data-compare]")].map(pair => {
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: 100, value: 50 });
    slider.setAttribute("aria-label", `Before and after: ${pair.dataset.compare}`);
    slider.show = () => {
      pair.style.setProperty("--cut", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value} % before, ${100 - slider.value} % after`);
    };
    slider.addEventListener("input", slider.show);
    slider.show();
    pair.append(slider);
    pair.classList.add("sliding");
    return slider;
  });
  const every = document.querySelector(".every");
  if (!every || !sliders.length) return;
  every.hidden = false;
  every.querySelector("input").addEventListener("input", event => {
    for (const slider of sliders) {
      slider.value = event.target.value;
      slider.show();
    }
  });
}

/* A link to a collapsed table opens it. */
function openTarget() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.querySelector("summary").focus();
    target.scrollIntoView();
  }
}
