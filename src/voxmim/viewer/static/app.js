// The viewer's page: the list of cases, the layers of one, and NiiVue or, without WebGL2, planes drawn by the server.
"use strict";

const byId = (id) => document.getElementById(id);
const PLANES = ["axial", "coronal", "sagittal"];
const POLL = 5000; // milliseconds between two looks at what a training or a check of files has done

const state = {
  collection: null,
  current: -1, // index of the item that is shown
  panels: [], // of the shown item: {niivue, layers} or {planes, layers}
  shown: [], // whether each layer of the panels is shown, by its index
  webgl: hasWebGL2(),
  opened: 0, // counts what was opened, so that a slow one does not come in the way of a later one
};
window.voxmim = state; // for scripts and tests

function hasWebGL2() {
  try {
    return Boolean(document.createElement("canvas").getContext("webgl2"));
  } catch {
    return false;
  }
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

async function load() {
  const answer = await fetch("collection.json");
  state.collection = await answer.json();
  const { title, live, checking, page, curves } = state.collection;
  byId("title").textContent = title;
  document.title = `${title} - voxmim`;
  byId("state").textContent = live ? "training" : checking ? `checking files: ${checking}` : "";
  if (page) Object.assign(byId("report"), { href: page, hidden: false });
  showFindingFilter();
  showItems();
  if (curves) await showCurves();
  if (live || checking) setTimeout(load, POLL);
}

async function showCurves() {
  const answer = await fetch("curves.png");
  byId("curves").hidden = !answer.ok;
  if (!answer.ok) return;
  const image = byId("curves").querySelector("img");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(await answer.blob());
}

function showFindingFilter() {
  const select = byId("finding");
  const kinds = new Set(state.collection.items.flatMap((item) => item.findings.map((one) => one.kind)));
  const chosen = select.value;
  select.replaceChildren(
    new Option("all cases", ""), new Option("any finding", "*"), ...[...kinds].sort().map((kind) => new Option(kind, kind)));
  select.value = kinds.has(chosen) || chosen === "*" ? chosen : "";
  select.hidden = document.querySelector("label[for=finding]").hidden = kinds.size === 0;
}

function matching() {
  const words = byId("search").value.toLowerCase();
  const kind = byId("finding").value;
  return state.collection.items
    .map((item, index) => ({ item, index }))
    .filter(({ item }) => `${item.name} ${item.group}`.toLowerCase().includes(words))
    .filter(({ item }) => !kind || item.findings.some((one) => kind === "*" || one.kind === kind));
}

function showItems() {
  const found = matching();
  byId("count").textContent = `${found.length} of ${state.collection.items.length}`;
  byId("items").replaceChildren(
    ...found.map(({ item, index }) => {
      const more = [item.group, item.findings.length ? `${item.findings.length} findings` : ""].filter(Boolean).join(", ");
      const row = element("li", { id: `item-${index}`, role: "option" }, item.name, " ", element("small", {}, more));
      row.setAttribute("aria-selected", String(index === state.current));
      row.addEventListener("click", () => open(index));
      return row;
    }));
  if (state.current < 0 && found.length) open(found[0].index);
}

async function open(index) {
  state.current = index;
  const ticket = ++state.opened;
  const item = state.collection.items[index];
  for (const row of byId("items").children) row.setAttribute("aria-selected", String(row.id === `item-${index}`));
  byId(`item-${index}`)?.scrollIntoView({ block: "nearest" });
  byId("items").setAttribute("aria-activedescendant", `item-${index}`);
  byId("findings").replaceChildren(...item.findings.map((one) => element("li", {}, `${one.kind}: ${one.reason} (${one.action})`)));
  state.shown = item.panels[0].layers.map((layer) => layer.shown);
  showLayers(item);
  note("reading");
  try {
    await (state.webgl ? showVolumes(item, index, ticket) : showPlanes(item, index));
    if (state.opened === ticket) note(state.webgl ? "" : "This browser has no WebGL2: the planes are drawn by the server, without 3D.");
  } catch (error) {
    note(String(error.message || error));
  }
}

function note(text) {
  byId("note").textContent = text;
  byId("note").hidden = !text;
}

function showLayers(item) {
  const layers = item.panels[0].layers;
  byId("layers").replaceChildren(
    ...layers.map((layer, index) => {
      const kind = layer.kind === "image" ? "radio" : "checkbox";
      const input = element("input", { type: kind, name: layer.kind === "image" ? "image" : `layer-${index}`, id: `layer-${index}` });
      input.checked = state.shown[index];
      input.addEventListener("change", () => toggle(index));
      return element("div", {}, input, element("label", { htmlFor: `layer-${index}` }, `${index + 1}. ${layer.name}`));
    }));
  const legend = new Map(layers.flatMap((layer) => layer.legend.map((one) => [one.value, one])));
  byId("legend").replaceChildren(
    ...[...legend.values()].map((one) => {
      const swatch = element("span");
      swatch.style.background = one.colour;
      return element("li", {}, swatch, one.name);
    }));
}

function toggle(index) {
  const layers = state.collection.items[state.current].panels[0].layers;
  if (!layers[index]) return;
  if (layers[index].kind === "image") layers.forEach((layer, i) => { if (layer.kind === "image") state.shown[i] = i === index; });
  else state.shown[index] = !state.shown[index];
  layers.forEach((_, i) => { byId(`layer-${i}`).checked = state.shown[i]; });
  for (const panel of state.panels) panel.refresh();
}

const opacityOf = (layer, index) =>
  state.shown[index] ? (layer.kind === "image" ? 1 : Number(byId("opacity").value)) : 0;

function colourTable(legend) {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
  for (const { value, name, colour } of legend) {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    table.R.push(r); table.G.push(g); table.B.push(b); table.A.push(255); table.I.push(value); table.labels.push(name);
  }
  return table;
}

async function showVolumes(item, index, ticket) {
  const made = item.panels.map((panel) => {
    const canvas = element("canvas", { tabIndex: 0 });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${item.name} ${panel.title}: slices; move with the arrow keys`);
    const box = element("div", { className: "panel" });
    if (panel.title) box.append(element("h2", {}, panel.title));
    box.append(element("div", { className: "frame" }, canvas));
    return { box, canvas, panel };
  });
  for (const old of state.panels) old.niivue?.gl.getExtension("WEBGL_lose_context")?.loseContext();
  state.panels = [];
  byId("panels").replaceChildren(...made.map((one) => one.box));
  for (const [number, { canvas, panel }] of made.entries()) {
    const niivue = new window.niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairWidth: 0.5, dragAndDropEnabled: false, isRadiologicalConvention: true,
      sagittalNoseLeft: true, show3Dcrosshair: true, loadingText: "reading", logLevel: "error", isNearestInterpolation: true,
    });
    await niivue.attachToCanvas(canvas);
    await niivue.loadVolumes(
      panel.layers.map((layer, at) => ({
        url: `volumes/${index}/${number}/${at}.nii`, name: `${layer.name}.nii`,
        colormap: layer.kind === "error" ? "inferno" : "gray", opacity: opacityOf(layer, at),
      })));
    if (state.opened !== ticket) return;
    panel.layers.forEach((layer, at) => {
      if (layer.kind === "labels") niivue.volumes[at].setColormapLabel(colourTable(layer.legend));
    });
    const images = niivue.volumes.filter((_, at) => panel.layers[at].kind === "image");
    for (const volume of images) Object.assign(volume, { cal_min: images[0].cal_min, cal_max: images[0].cal_max });
    niivue.onLocationChange = (place) => {
      const values = place.values.flatMap(({ value }, at) => {
        const layer = panel.layers[at];
        if (!opacityOf(layer, at)) return [];
        const label = layer.kind === "labels" && (layer.legend.find((one) => one.value === value)?.name ?? "background");
        return [`${layer.name} ${label || Number(value.toPrecision(3))}`];
      });
      const millimetres = Array.from(place.mm).slice(0, 3).map((each) => each.toFixed(0)).join(", ");
      byId("location").textContent = `${millimetres} mm (RAS): ${values.join(", ")}`;
    };
    const refresh = () => {
      panel.layers.forEach((layer, at) => niivue.setOpacity(at, opacityOf(layer, at)));
      niivue.updateGLVolume();
    };
    state.panels.push({ niivue, layers: panel.layers, refresh, setView: (view) => setView(niivue, view) });
    setView(niivue, byId("view").value);
    refresh();
    niivue.createOnLocationChange();
  }
  const all = state.panels.map((panel) => panel.niivue);
  if (all.length > 1) all.forEach((one) => one.broadcastTo(all.filter((other) => other !== one), { "2d": true, "3d": true }));
}

function setView(niivue, view) {
  const types = { axial: 0, coronal: 1, sagittal: 2, multiplanar: 3, render: 4 };
  niivue.opts.multiplanarShowRender = 1;
  niivue.setSliceType(types[view]);
}

async function showPlanes(item, index) {
  state.panels = item.panels.map((panel, number) => {
    const position = { axial: 0.5, coronal: 0.5, sagittal: 0.5 };
    const box = element("div", { className: "planes" });
    const pictures = PLANES.map((plane) => {
      const image = element("img", { alt: `${plane} plane of ${item.name} ${panel.title}` });
      const slider = element("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0.5, id: `${plane}-${number}` });
      slider.addEventListener("input", () => { position[plane] = Number(slider.value); draw(); });
      box.append(element("figure", {}, image, element("label", { htmlFor: slider.id }, plane), slider));
      return { plane, image };
    });
    const draw = () => {
      const layers = [...panel.layers.keys()].filter((at) => state.shown[at]);
      for (const { plane, image } of pictures)
        image.src = `planes/${index}/${number}/${plane}.png?at=${position[plane]}&layers=${layers.join(",") || 0}`;
    };
    return { box, layers: panel.layers, refresh: draw, setView: () => {}, title: panel.title };
  });
  byId("panels").replaceChildren(
    ...state.panels.map((one) => element("div", { className: "panel" }, element("h2", {}, one.title), one.box)));
  state.panels.forEach((one) => one.refresh());
  byId("view").disabled = true;
}

function step(by) {
  const found = matching().map(({ index }) => index);
  const place = found.indexOf(state.current);
  if (found.length) open(found[Math.min(Math.max(place + by, 0), found.length - 1)]);
}

const MOVES = {
  ArrowRight: [1, 0, 0], ArrowLeft: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
};

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input[type=search], select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "j") step(1);
  else if (key === "k") step(-1);
  else if (key === "v") {
    const view = byId("view");
    view.selectedIndex = (view.selectedIndex + 1) % view.options.length;
    view.dispatchEvent(new Event("change"));
  } else if (/^[1-9]$/.test(key)) toggle(Number(key) - 1);
  else if (event.key in MOVES && event.target.type !== "range") {
    if (event.target === byId("items") && ["ArrowUp", "ArrowDown"].includes(event.key)) step(event.key === "ArrowDown" ? 1 : -1);
    else state.panels[0]?.niivue?.moveCrosshairInVox(...MOVES[event.key]);
  } else return;
  event.preventDefault();
});

byId("search").addEventListener("input", showItems);
byId("finding").addEventListener("change", showItems);
byId("view").addEventListener("change", () => state.panels.forEach((panel) => panel.setView(byId("view").value)));
byId("opacity").addEventListener("input", () => state.panels.forEach((panel) => panel.refresh()));
load().catch((error) => note(String(error)));
