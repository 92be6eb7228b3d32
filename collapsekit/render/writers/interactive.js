// Shows what a report recorded where its reader looks, and sorts and searches tables. All text goes in as text: nothing
// here makes markup of a string, and the page's policy forbids it.
"use strict";
(() => {
  const WIDTH = 340, HEIGHT = 190, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 34, MOST_ROWS = 6;
  const DASHES = ["", "7 2", "2 2", "8 2 2 2", "4 2", "11 3"];

  const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const draw = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const fill = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const color = (index) => `var(--series-${(index % 6) + 1})`;
  const unique = (values) => [...new Set(values)];
  const group = (values, key) => {
    const groups = new Map();
    for (const value of values) groups.set(key(value), [...(groups.get(key(value)) ?? []), value]);
    return groups;
  };

  // --- axes

  const ticks = (low, high) => {
    const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
  };
  const short = (value) => String(Number(value.toPrecision(3)));
  const range = (values) => {
    const low = Math.min(...values), high = Math.max(...values);
    if (Number.isFinite(high - low) && high > low) return [low, high];
    const around = Math.abs(low) || 1;
    return [low - around / 2, low + around / 2];
  };
  const scale = ([low, high], from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);

  const frame = (svg, yRange, y, xTicks, xLabel, yLabel) => {
    for (const value of ticks(...yRange)) {
      svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
      svg.append(draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    }
    for (const [at, text] of xTicks) {
      svg.append(draw("text", { x: at, y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, text));
    }
    svg.append(draw("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, xLabel));
    if (yLabel) svg.append(draw("title", {}, yLabel));
  };

  const keyItem = (index, name, dash = index) => {
    const sample = draw("line", { x1: 0, x2: 26, y1: 6, y2: 6, "stroke-width": 2.5, "stroke-dasharray": DASHES[dash % 6] });
    sample.style.stroke = color(index);
    const number = make("span", { class: "number" });
    const picture = draw("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, sample);
    return { number, item: make("li", {}, picture, make("span", {}, name), number) };
  };

  const caption = (recording) =>
    make("figcaption", {}, make("b", {}, recording.title), recording.y ? `. ${recording.y}` : "");

  // --- lines over an axis of numbers, all with the same place to look at

  const lineChart = (recording, look) => {
    const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${recording.title} over ${recording.x}` });
    const xRange = range(recording.series.flatMap((s) => s.at));
    const yRange = range(recording.series.flatMap((s) => [...s.low, ...s.high]));
    const x = scale(xRange, LEFT, WIDTH - RIGHT), y = scale(yRange, HEIGHT - BOTTOM, TOP);
    frame(svg, yRange, y, ticks(...xRange).map((v) => [x(v), short(v)]), recording.x, recording.y);
    const cursor = draw("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
    const list = make("ul", { class: "key" });
    const firsts = unique(recording.series.map((s) => s.parts[0]));
    const lines = recording.series.map((s, i) => {
      // A modality has its colour everywhere; where it has several lines, the dash tells which of them it is.
      const index = s.place ?? i, dash = s.parts.length > 1 && firsts.length > 1 ? firsts.indexOf(s.parts[0]) : index;
      const path = (ys, from = "M") => s.at.map((v, i) => `${i ? "L" : from}${x(v)} ${y(ys[i])}`).join("");
      const back = s.at.map((v, i) => `L${x(v)} ${y(s.low[i])}`).reverse().join("");
      const band = draw("path", { class: "spread", d: `${path(s.high)}${back}Z` });
      const line = draw("path", { class: "line", d: path(s.y), "stroke-dasharray": DASHES[dash % 6] });
      const dot = draw("circle", { r: 3.2 });
      band.style.fill = dot.style.fill = line.style.stroke = color(index);
      const parts = draw("g", {}, band, line, dot), key = keyItem(index, s.name, dash);
      svg.append(parts);
      list.append(key.item);
      return { s, parts, dot, ...key };
    });
    svg.append(cursor);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * WIDTH;
      look.move(xRange[0] + ((at - LEFT) / (WIDTH - RIGHT - LEFT)) * (xRange[1] - xRange[0]));
    });
    const show = (value, hidden) => {
      cursor.setAttribute("transform", `translate(${x(Math.min(xRange[1], Math.max(xRange[0], value)))} 0)`);
      for (const { s, parts, dot, number, item } of lines) {
        const i = s.at.indexOf(value);
        parts.style.display = item.style.display = s.parts.some((part) => hidden.has(part)) ? "none" : "";
        dot.style.display = i < 0 ? "none" : "";
        if (i >= 0) fill(dot, { cx: x(value), cy: y(s.y[i]) }, []);
        number.textContent = i < 0 ? "\u2013" : s.text[i];
      }
    };
    return { show, figure: make("figure", { class: "chart" }, caption(recording), svg, list) };
  };

  const overAxis = (label, recordings) => {
    const names = unique(recordings.flatMap((r) => r.series.flatMap((s) => s.parts)));
    const places = unique(recordings.flatMap((r) => r.series.flatMap((s) => s.at))).sort((a, b) => a - b);
    const texts = new Map(recordings.flatMap((r) => r.series.flatMap((s) => s.at.map((v, i) => [v, s.label[i]]))));
    const slider = make("input", { type: "range", min: 0, max: places.length - 1, step: 1, value: 0 });
    const told = make("output"), hidden = new Set();
    const look = {
      move: (value) => {
        slider.value = places.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(places[best] - value) ? i : best), 0);
        update();
      },
    };
    const charts = recordings.map((r) => lineChart(r, look));
    const update = () => {
      const value = places[slider.value];
      told.textContent = texts.get(value);
      slider.setAttribute("aria-valuetext", `${label} ${texts.get(value)}`);
      for (const chart of charts) chart.show(value, hidden);
    };
    slider.addEventListener("input", update);
    const controls = [make("div", { class: "controls" }, make("label", {}, label, slider, told))];
    if (names.length > 1) {
      controls.push(toggles("Show", names, (name, on) => (hidden[on ? "delete" : "add"](name), update())));
    }
    // Where most lines have a number; of several such places 1, which is the model as it is where features are scaled.
    const lines = recordings.flatMap((r) => r.series), count = (v) => lines.filter((s) => s.at.includes(v)).length;
    const best = Math.max(...places.map(count)), full = places.filter((v) => count(v) === best);
    look.move(full.includes(1) ? 1 : full[0]);
    return [make("h3", {}, `Over ${label}`), ...controls, make("div", { class: "charts" }, ...charts.map((c) => c.figure))];
  };

  const toggles = (legend, names, changed) => {
    const boxes = names.map((name) => {
      const box = make("input", { type: "checkbox", checked: "" });
      box.addEventListener("change", () => changed(name, box.checked));
      return make("label", {}, box, name);
    });
    return make("fieldset", { class: "controls" }, make("legend", {}, legend), ...boxes);
  };

  // --- numbers by name, one recording at a time

  const barChart = (recording) => {
    const names = recording.series.map((s) => s.name), rows = unique(recording.series.flatMap((s) => s.label));
    const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": recording.title });
    const yRange = range([0, ...recording.series.flatMap((s) => [...s.low, ...s.high])]);
    const y = scale(yRange, HEIGHT - BOTTOM, TOP), slot = (WIDTH - LEFT - RIGHT) / rows.length;
    frame(svg, yRange, y, rows.map((_, i) => [LEFT + (i + 0.5) * slot, String(i + 1)]), recording.x, recording.y);
    const list = make("ul", { class: "key" });
    rows.forEach((row, i) => {
      for (const [j, s] of recording.series.entries()) {
        const at = s.label.indexOf(row);
        if (at < 0) continue;
        const x = LEFT + (i + (j + 1) / (names.length + 1)) * slot;
        const whisker = draw("line", { class: "whisker", x1: x, x2: x, y1: y(s.low[at]), y2: y(s.high[at]) });
        const said = [`${i + 1} ${row}`, s.name].filter(Boolean).join(", ");
        const dot = draw("circle", { cx: x, cy: y(s.y[at]), r: 4 }, draw("title", {}, `${said}: ${s.text[at]}`));
        whisker.style.stroke = dot.style.fill = color(j);
        svg.append(whisker, dot);
        const key = keyItem(j, said);
        key.number.textContent = s.text[at];
        list.append(key.item);
      }
    });
    return make("figure", { class: "chart" }, caption(recording), svg, list);
  };

  const byName = (recordings) => {
    const select = make("select", {}, ...recordings.map((r, i) => make("option", { value: i }, r.title)));
    const place = make("div", { class: "charts" });
    const update = () => place.replaceChildren(barChart(recordings[select.value]));
    select.addEventListener("change", update);
    update();
    return [make("h3", {}, "Number by number"), make("div", { class: "controls" }, make("label", {}, "Show", select)), place];
  };

  // --- sets of modalities that the model was given

  const bySet = (some) => {
    const most = (r) => Math.max(...r.sets.map((set) => set.length));
    const recordings = [...some].sort((a, b) => most(b) - most(a)), off = new Set();
    const names = unique(recordings.flatMap((r) => r.sets).sort((a, b) => b.length - a.length).flat());
    const body = make("tbody");
    const update = () => {
      const given = names.filter((n) => !off.has(n));
      const same = (set) => set.length === given.length && set.every((n) => !off.has(n));
      body.replaceChildren(
        ...recordings.flatMap((r) => {
          const place = r.sets.findIndex(same), key = place < 0 ? null : r.series[0].at[place];
          return r.series.map((s) => {
            const at = s.at.indexOf(key), name = r.series.length > 1 ? `${r.title}, ${s.name}` : r.title;
            const text = at >= 0 ? s.text[at] : off.size ? "not recorded" : "nothing is missing";
            return make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "n" }, text), make("td", {}, r.y));
          });
        }),
      );
    };
    update();
    const heads = ["recorded", "value", "unit"].map((h, i) => make("th", { scope: "col", ...(i === 1 && { class: "n" }) }, h));
    const table = make("table", { class: "fixed" }, make("thead", {}, make("tr", {}, ...heads)), body);
    return [
      make("h3", {}, "With some of the modalities"),
      toggles("The model is given", names, (name, on) => (off[on ? "delete" : "add"](name), update())),
      make("div", { class: "scroll", role: "group", tabindex: 0, "aria-label": "With some of the modalities" }, table),
    ];
  };

  // --- tables

  const SIGNS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b";
  const SIZES = { k: 1000, min: 60, h: 3600 };
  // The number that a field begins with, in the units that tables have; null where it begins with a name.
  const leadingNumber = (text) => {
    const found = new RegExp(`^[\\s<>~\u2264\u2265]*([+\u2212-]?\\d[\\d,]*(?:\\.\\d+)?)(?:\u00d710([${SIGNS}]+))?(?![\\w.])(?: (k|min|h)\\b)?`).exec(text);
    if (!found) return null;
    const power = [...(found[2] ?? "")].map((c) => "0123456789-"[SIGNS.indexOf(c)]).join("");
    return Number(found[1].replaceAll(",", "").replace("\u2212", "-")) * 10 ** Number(power) * (SIZES[found[3]] ?? 1);
  };
  const compare = (a, b) => {
    const [m, n] = [leadingNumber(a), leadingNumber(b)];
    if (m !== null && n !== null) return m - n;
    if ((m === null) !== (n === null)) return m === null ? 1 : -1;
    return a < b ? -1 : a > b ? 1 : 0;
  };

  const sortable = (table) => {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const name = head.textContent.trim();
      if (!name) return;
      const button = make("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { none: "descending", descending: "ascending", ascending: "none" }[head.getAttribute("aria-sort") ?? "none"];
        for (const other of heads) other.removeAttribute("aria-sort");
        const way = { none: 0, ascending: 1, descending: -1 }[next], text = (row) => row.cells[column].textContent;
        const sorted = way ? [...rows].sort((a, b) => way * compare(text(a), text(b))) : rows;
        if (way) head.setAttribute("aria-sort", next);
        body.append(...sorted);
      });
    });
    return rows;
  };

  const searchable = (table, rows, place) => {
    const input = make("input", { type: "search" }), told = make("output");
    const texts = rows.map((row) => row.textContent.toLowerCase());
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      let count = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        count += !row.hidden;
      });
      told.textContent = input.value ? `${count} of ${rows.length}` : "";
    });
    place.before(make("label", { class: "search" }, "Search this table", input, told));
  };

  for (const table of document.querySelectorAll("table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    const rows = sortable(table);
    if (rows.length > MOST_ROWS) searchable(table, rows, table.closest(".scroll"));
  }

  // --- the part of the page that is explored

  const recordings = JSON.parse(document.getElementById("recorded").textContent);
  const isSet = (r) => r.sets.length > 0, isLine = (r) => r.series.every((s) => s.at.every((v) => typeof v === "number"));
  const sets = recordings.filter(isSet), rest = recordings.filter((r) => !isSet(r));
  const parts = [];
  if (sets.length) parts.push(...bySet(sets));
  for (const [label, some] of group(rest.filter(isLine), (r) => r.x)) parts.push(...overAxis(label, some));
  const named = rest.filter((r) => !isLine(r));
  if (named.length) parts.push(...byName(named));
  document.getElementById("explored")?.replaceChildren(...parts);
})();
