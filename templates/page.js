// Draws the charts, and answers the filter, the graph and the folds. All data stand in the page.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // --- charts ----------------------------------------------------------------------------------

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();
  const state = { query: "", share: false, shown: null, size: null };

  /** Colours in place of their names (`@kept`); data are left alone. */
  function themed(spec, colours) {
    if (Array.isArray(spec)) return spec.map((item) => themed(item, colours));
    if (typeof spec === "string") return spec.startsWith("@") ? colours[spec.slice(1)] : spec;
    if (spec === null || typeof spec !== "object") return spec;
    const entries = Object.entries(spec);
    return Object.fromEntries(entries.map(([k, v]) => [k, k === "values" ? v : themed(v, colours)]));
  }

  function nameOf(place) {
    return state.size && place.dataset.chart.replace(/_[a-z]+$/, `_${state.size}`) in data.charts
      ? place.dataset.chart.replace(/_[a-z]+$/, `_${state.size}`)
      : place.dataset.chart;
  }

  async function draw(place) {
    const spec = themed(data.charts[nameOf(place)], data.themes[dark.matches ? "dark" : "light"]);
    spec.config.aria = false; // the place itself says what it shows, a table has the figures
    for (const param of spec.params || []) {
      if (place.clientWidth >= 420) continue;
      if (param.name === "narrow") param.value = true;
      if (param.name === "letters") param.value = param.value > 50 ? 24 : 17;
    }
    const drawn = await vegaEmbed(place, spec, {
      mode: "vega-lite",
      actions: false,
      logLevel: 1, // errors
      ast: true, // expressions are interpreted: the page allows no eval
      renderer: "svg",
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    const old = views.get(place);
    views.set(place, drawn.view);
    if (old) old.finalize();
    place.style.minHeight = "0";
    await told(place, drawn.view);
    place.dataset.drawn = "yes";
  }

  /** What the filter and the boxes say, for one chart. */
  async function told(place, view) {
    const names = (data.charts[place.dataset.chart].params || []).map((param) => param.name);
    if (names.includes("query")) view.signal("query", state.query);
    if (names.includes("share")) view.signal("share", state.share);
    if (names.includes("shown")) view.signal("shown", state.shown);
    if (names.includes("rows")) {
      const count = Object.values(data.groups).filter((group) =>
        group.scored && group.layers.map((i) => data.layers[i].name).join(" ").toLowerCase()
          .includes(state.query)).length;
      view.signal("rows", Math.max(count, 1)).height(Math.max(count, 1) * Number(place.dataset.step));
    }
    await view.runAsync();
  }

  const places = () => all("[data-chart]");

  async function drawAll() {
    for (const place of places()) {
      await draw(place);
      await new Promise((resolve) => setTimeout(resolve));
    }
    document.documentElement.dataset.ready = "yes";
  }

  function retell() {
    for (const [place, view] of views) told(place, view);
  }

  dark.addEventListener("change", drawAll);

  // --- the filter of layers --------------------------------------------------------------------

  const filter = find("#filter");
  const matches = (name) => name.toLowerCase().includes(state.query);

  function filtered() {
    state.query = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of all("tr[data-layer]")) {
      row.hidden = !matches(row.dataset.layer);
      count += !row.hidden;
    }
    for (const row of all("tr[data-layers]")) row.hidden = !matches(row.dataset.layers);
    for (const item of all(".names li")) {
      item.hidden = !matches(data.layers[item.dataset.layer].name);
    }
    for (const box of boxes) {
      box.classList.toggle("faint", !matches(data.layers[box.dataset.layer].name));
    }
    find("#matches").textContent = state.query
      ? `${count} of ${data.layers.length} layers` : `${data.layers.length} layers`;
    retell();
  }

  const share = find("#share");
  if (share) {
    share.addEventListener("change", () => {
      state.share = share.checked;
      retell();
    });
  }

  // --- the graph -------------------------------------------------------------------------------

  const svg = find("#graph");
  const boxes = svg ? all(".box", svg) : [];
  const ties = svg ? all(".tie", svg) : [];
  const why = find("#why");

  function made(tag, text, parent, className) {
    const element = document.createElement(tag);
    if (text !== null) element.textContent = text;
    if (className) element.className = className;
    parent.append(element);
    return element;
  }

  /** A list of layers as buttons that choose them. */
  function linked(title, layers) {
    if (!layers.length) return;
    made("h4", title, why);
    const list = made("ul", null, why);
    for (const i of layers) {
      const button = made("button", data.layers[i].name, made("li", null, list), "link");
      button.type = "button";
      button.addEventListener("click", () => choose(i, true));
    }
  }

  function choose(i, center) {
    const layer = data.layers[i];
    const group = data.groups[layer.group];
    svg.classList.add("chosen");
    const mates = new Set(group ? group.layers : [i]);
    const near = new Set(group ? group.readers : []);
    for (const tie of ties) {
      const [a, b] = [Number(tie.dataset.a), Number(tie.dataset.b)];
      const hot = tie.classList.contains("same")
        ? mates.has(a) && mates.has(b)
        : mates.has(a) || b === i;
      tie.classList.toggle("hot", hot);
      if (hot) near.add(a).add(b);
    }
    for (const box of boxes) {
      const number = Number(box.dataset.layer);
      box.classList.toggle("mate", mates.has(number));
      box.classList.toggle("near", near.has(number));
      box.classList.toggle("here", number === i);
    }
    for (const button of all(".names button")) {
      button.setAttribute("aria-pressed", String(button.dataset.layer === String(i)));
    }
    if (center) show(boxes.find((box) => box.dataset.layer === String(i)));
    tell(i, layer, group);
  }

  function tell(i, layer, group) {
    why.replaceChildren();
    made("h3", layer.name, why);
    const lost = layer.before - layer.after;
    made("p", `${layer.kind}, ${layer.before} output channels; `
      + (lost ? `${lost} removed, ${layer.after} stay.` : "all stay."), why);
    if (layer.because) made("p", `Why it lost none: ${layer.because}.`, why);
    if (group) {
      const stay = group.frozen ? `, ${group.frozen} can never go` : "";
      made("p", `Group ${layer.group}: ${group.units} units, ${group.removed} removed${stay}.`, why);
      for (const reason of group.reasons) made("p", `Stay because: ${reason}.`, why);
      for (const place of group.counted) {
        made("p", `${place} depends on how many channels there are.`, why);
      }
      linked("Loses the same channels", group.layers.filter((other) => other !== i));
      linked("Reads these channels, and loses inputs with them", group.readers);
    }
    const sources = layer.reads.flatMap((g) => (data.groups[g] ? data.groups[g].layers : []));
    linked("Its own inputs are made by", sources);
    if (layer.ties.length) {
      made("h4", "All that goes with its channels, and by which operator", why);
      const list = made("ul", null, why);
      for (const [name, because, count, of] of layer.ties) {
        const part = count === of ? "" : ` (${count} of ${of} channels)`;
        made("li", `${data.texts[name]}, by ${data.texts[because]}${part}`, list);
      }
    }
    why.scrollTop = 0;
  }

  // What is seen of the graph: x, y, width, height.
  let seen = null;
  let whole = null;

  function look(box) {
    seen = box;
    svg.setAttribute("viewBox", box.map((n) => n.toFixed(1)).join(" "));
  }

  function fit() {
    if (!svg.clientWidth || !svg.clientHeight) return; // not laid out yet
    const ratio = svg.clientWidth / svg.clientHeight;
    const [, , w, h] = whole;
    // On a narrow screen the beginning, so large that it can be read.
    const width = Math.max(w, h * ratio);
    const readable = Math.min(width, svg.clientWidth / 0.62);
    look(readable < width && svg.clientWidth < 700
      ? [0, 0, readable, readable / ratio]
      : [(w - width) / 2, (h - width / ratio) / 2, width, width / ratio]);
  }

  function zoom(factor, x = 0.5, y = 0.5) {
    if (!seen) return;
    const [left, top, w, h] = seen;
    const [width, height] = [w / factor, h / factor];
    if (width < 120 || width > whole[2] * 6) return;
    look([left + (w - width) * x, top + (h - height) * y, width, height]);
  }

  function move(x, y) {
    if (seen) look([seen[0] + x * seen[2], seen[1] + y * seen[3], seen[2], seen[3]]);
  }

  /** Bring a box into view, large enough to be read. */
  function show(box) {
    if (!box || !seen) return;
    const at = find("rect", box);
    const [x, y] = ["x", "y"].map((name) => Number(at.getAttribute(name)));
    const width = Math.min(seen[2], svg.clientWidth / 0.7);
    const height = width * seen[3] / seen[2];
    look([x + 70 - width / 2, y + 18 - height / 2, width, height]);
  }

  function graph() {
    whole = svg.getAttribute("viewBox").split(" ").map(Number);
    fit();
    for (const box of boxes) {
      box.addEventListener("click", () => choose(Number(box.dataset.layer), false));
    }
    for (const button of all(".names button")) {
      button.addEventListener("click", () => choose(Number(button.dataset.layer), true));
    }
    const does = { in: () => zoom(1.4), out: () => zoom(1 / 1.4), fit };
    for (const button of all("[data-zoom]")) {
      button.addEventListener("click", does[button.dataset.zoom]);
    }
    const keys = {
      ArrowLeft: () => move(-0.15, 0), ArrowRight: () => move(0.15, 0),
      ArrowUp: () => move(0, -0.15), ArrowDown: () => move(0, 0.15),
      "+": does.in, "=": does.in, "-": does.out, 0: fit,
      Escape: () => svg.classList.remove("chosen"),
    };
    find("#stage").addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
      event.preventDefault();
      keys[event.key]();
    });
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // else the page scrolls
      event.preventDefault();
      const at = svg.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY / 300), (event.clientX - at.left) / at.width,
        (event.clientY - at.top) / at.height);
    }, { passive: false });
    let from = null;
    svg.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY]; });
    window.addEventListener("pointerup", () => { from = null; });
    window.addEventListener("pointermove", (event) => {
      if (!from || !event.buttons) return;
      move((from[0] - event.clientX) / svg.clientWidth, (from[1] - event.clientY) / svg.clientHeight);
      from = [event.clientX, event.clientY];
    });
    let known = 0;
    new ResizeObserver(() => {
      if (svg.clientWidth !== known) fit();
      known = svg.clientWidth;
    }).observe(svg);
  }

  // --- many networks ---------------------------------------------------------------------------

  function trials() {
    for (const box of all("[name=series]")) {
      box.addEventListener("change", () => {
        state.shown = all("[name=series]").filter((b) => b.checked).map((b) => b.value);
        for (const row of all("tr[data-series]")) {
          row.hidden = !state.shown.includes(row.dataset.series);
        }
        retell();
      });
    }
    for (const radio of all("[name=size]")) {
      radio.addEventListener("change", () => {
        state.size = radio.value;
        for (const row of all("tr[data-fronts]")) {
          find(".front", row).textContent =
            row.dataset.fronts.split(" ").includes(state.size) ? "yes" : "";
        }
        drawAll();
      });
    }
  }

  // --- folds -----------------------------------------------------------------------------------

  for (const button of all("[data-fold]")) {
    button.addEventListener("click", () => {
      document.getElementById(button.dataset.fold).hidden = false;
      button.closest("tbody").hidden = true;
    });
  }

  if (filter) filter.addEventListener("input", filtered);
  if (svg) graph();
  trials();
  drawAll();
})();
