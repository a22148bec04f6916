"use strict";
(() => {
  const root = document.documentElement;
  const specs = JSON.parse(document.getElementById("plots").textContent);
  const NARROW_PX = 560;
  const PRINT_PX = 680;
  let printing = false;

  // ---- what the reader chose: in the address, else kept from last time, else as the browser is set
  const asked = new URLSearchParams(location.search);
  const keep = {
    get(key) { try { return localStorage.getItem("dure." + key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem("dure." + key, value); } catch { /* private windows keep nothing */ } },
  };
  const oneOf = (values, ...candidates) => candidates.find((value) => values.includes(value));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  root.lang = oneOf(["en", "ko"], asked.get("lang"), keep.get("lang"), navigator.language.slice(0, 2), "en");
  root.dataset.theme = oneOf(["light", "dark"], asked.get("theme"), keep.get("theme"), dark.matches ? "dark" : "light");

  // ---- tokens in a plot's specification
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const has = (value, a, b) => Object.keys(value).length === 2 && a in value && b in value;
  function resolve(value, isNarrow) {
    if (typeof value === "string") return value.startsWith("@") ? colour(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map((item) => resolve(item, isNarrow));
    if (value === null || typeof value !== "object") return value;
    if (has(value, "en", "ko")) return resolve(value[root.lang], isNarrow);
    if (has(value, "wide", "narrow")) return resolve(isNarrow ? value.narrow : value.wide, isNarrow);
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item, isNarrow)]));
  }

  function withDefaults(layout, width) {
    const isNarrow = width < NARROW_PX;
    const axis = {
      gridcolor: colour("grid"), zerolinecolor: colour("rule"), linecolor: colour("rule"), zeroline: false,
      automargin: true, ticks: "", tickfont: { size: isNarrow ? 11 : 12 },
    };
    const legend = { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom", itemwidth: 30 };
    const title = { font: { size: 12, color: colour("muted") }, standoff: 8 };
    const axes = Object.fromEntries(Object.entries(layout).filter(([key]) => /^[xy]axis/.test(key)).map(([key, own]) =>
      [key, { ...axis, ...(key[0] === "x" ? { showline: true, ticks: "outside", tickcolor: colour("rule") } : {}), ...own,
        title: { ...title, ...(own.title || {}) } }]));
    return {
      autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
      margin: { l: 8, r: 16, t: isNarrow && layout.showlegend === false ? 8 : 34, b: 8 }, separators: ".,",
      hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("rule"), font: { color: colour("ink"), size: 12 }, namelength: -1 },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      modebar: { color: colour("muted"), activecolor: colour("ink"), bgcolor: "rgba(0,0,0,0)" },
      ...layout, ...axes, legend: { ...legend, ...(layout.legend || {}) },
    };
  }

  const config = {
    displaylogo: false, responsive: false, modeBarButtons: [["toImage", "resetScale2d"]],
  };

  // A legend on a narrow plot stands one entry a line: the plot grows with it.
  const legendRows = (data) => data.filter((trace) => trace.name && trace.showlegend !== false).length;

  function draw(box) {
    const width = printing ? PRINT_PX : Math.max(box.clientWidth, 240);
    const spec = specs[box.id];
    const isNarrow = width < NARROW_PX;
    const layout = withDefaults(resolve(spec.layout, isNarrow), width);
    layout.width = width;
    layout.height = spec.height + (isNarrow ? 18 * Math.max(0, legendRows(spec.data) - 3) : 0);
    box.style.height = layout.height + "px";
    box.setAttribute("aria-label", JSON.parse(box.dataset.label)[root.lang]);
    box.dataset.width = String(width);
    return Plotly.react(box, resolve(spec.data, isNarrow), layout, { ...config, displayModeBar: isNarrow ? false : "hover" });
  }
  const boxes = () => [...document.querySelectorAll(".plot")].filter((box) => box.offsetParent !== null);
  const drawAll = () => Promise.all(boxes().map(draw));

  // ---- switches
  function press() {
    for (const button of document.querySelectorAll("[data-set]")) {
      button.setAttribute("aria-pressed", String(root[button.dataset.set] === button.dataset.value));
    }
  }
  for (const button of document.querySelectorAll("[data-set]")) {
    button.addEventListener("click", () => {
      root.lang = button.dataset.value;
      keep.set("lang", root.lang);
      press();
      drawAll();
    });
  }
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    keep.set("theme", root.dataset.theme);
    drawAll();
  });

  // ---- which run is shown; links in the contents lead into that run
  const picker = document.getElementById("run");
  function show() {
    for (const run of document.querySelectorAll(".run")) {
      run.hidden = run.dataset.run !== picker.value;
      for (const section of run.querySelectorAll("[data-section]")) {
        if (run.hidden) section.removeAttribute("id");
        else section.id = section.dataset.section;
      }
    }
    drawAll();
  }
  if (picker) picker.addEventListener("change", show);

  // ---- tables that sort
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending" && column > 0
        || head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      const key = (row) => row.cells[column].dataset.v;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        if (column === 0) return sign * a.cells[0].textContent.localeCompare(b.cells[0].textContent, root.lang);
        if (key(a) === undefined || key(b) === undefined) return (key(a) === undefined) - (key(b) === undefined);
        return sign * (key(a) - key(b));
      });
      table.tBodies[0].append(...rows);
    }));
  }

  // ---- size and paper
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      for (const box of boxes()) if (String(Math.max(box.clientWidth, 240)) !== box.dataset.width) draw(box);
    }, 120);
  });
  let themeOnScreen = "";
  addEventListener("beforeprint", () => {
    themeOnScreen = root.dataset.theme;
    root.dataset.theme = "light";
    printing = true;
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.dataset.theme = themeOnScreen;
    printing = false;
    drawAll();
  });

  press();
  drawAll().then(() => { root.dataset.drawn = String(boxes().length); });
})();
