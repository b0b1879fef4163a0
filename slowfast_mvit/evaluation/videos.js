// The table of all videos: search, filters, order. Only the rows in view are in the page.
"use strict";
const data = JSON.parse(document.getElementById("videos-data").textContent);
const page = Object.fromEntries(
  [...document.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part])
);
data.videos = data.videos.map((name) => data.prefix + name + data.suffix);
const names = data.videos.map((name) => name.toLowerCase());
const isRight = data.true.map((label, row) => label === data.predicted[row]);
const ROW_PX = 30;
const ORDERS = {
  "true class least probable first": (a, b) => data.p_true[a] - data.p_true[b],
  "most confident mistakes first": (a, b) =>
    isRight[a] - isRight[b] || data.p_predicted[b] - data.p_predicted[a],
  "views that disagree first": (a, b) => data.agreement[a] - data.agreement[b],
  "as in the list": (a, b) => a - b,
};
let rows = [];

for (const order of Object.keys(ORDERS)) page.order.append(new Option(order));
for (const name of data.classes) page.classes.append(new Option(name));

function update() {
  const text = page.search.value.toLowerCase();
  const wanted = (box) => (box.value === "" ? -1 : data.classes.indexOf(box.value));
  const [label, guess] = [wanted(page.true), wanted(page.predicted)];
  const unknown = (box, index) => box.value !== "" && index < 0;
  page.true.ariaInvalid = unknown(page.true, label);
  page.predicted.ariaInvalid = unknown(page.predicted, guess);
  rows = [];
  for (let row = 0; row < names.length; row++) {
    if (text && !names[row].includes(text)) continue;
    if (label >= 0 && data.true[row] !== label) continue;
    if (guess >= 0 && data.predicted[row] !== guess) continue;
    if (page.answer.value && isRight[row] !== (page.answer.value === "right")) continue;
    rows.push(row);
  }
  rows.sort(ORDERS[page.order.value]);
  page.count.textContent = `${rows.length.toLocaleString("en")} of ${names.length.toLocaleString("en")} videos`;
  page.window.scrollTop = 0;
  draw();
}

function cell(text, kind) {
  const element = document.createElement("span");
  element.textContent = element.title = text;
  if (kind) element.className = kind;
  return element;
}

function draw() {
  page.rows.style.height = `${rows.length * ROW_PX}px`;
  const first = Math.max(0, Math.floor(page.window.scrollTop / ROW_PX) - 5);
  const last = Math.min(rows.length, first + Math.ceil(page.window.clientHeight / ROW_PX) + 10);
  const lines = [];
  for (let place = first; place < last; place++) {
    const row = rows[place];
    const line = document.createElement("li");
    line.append(
      cell(data.videos[row]),
      cell(data.classes[data.true[row]]),
      cell(data.classes[data.predicted[row]], isRight[row] ? "right" : "wrong"),
      cell(`${(data.p_true[row] / 10).toFixed(1)}%`),
      cell(`${(data.p_predicted[row] / 10).toFixed(1)}%`),
      cell(`${data.agreement[row]} of ${data.num_views}`)
    );
    lines.push(line);
  }
  page.rows.style.paddingTop = `${first * ROW_PX}px`;
  page.rows.replaceChildren(...lines);
}

function show(label, guess) {
  page.true.value = label < 0 ? "" : data.classes[label];
  page.predicted.value = guess < 0 ? "" : data.classes[guess];
  page.search.value = page.answer.value = "";
  update();
  document.getElementById("videos").scrollIntoView();
  page.window.focus({ preventScroll: true });
}

for (const name of ["search", "true", "predicted", "answer", "order"]) {
  page[name].addEventListener("input", update);
}
page.window.addEventListener("scroll", draw, { passive: true });
window.addEventListener("resize", draw);
for (const link of document.querySelectorAll("[data-videos]")) {
  link.tabIndex = 0;
  link.setAttribute("role", "button");
  const open = () => show(...link.dataset.videos.split(" ").map(Number));
  link.addEventListener("click", open);
  link.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open();
    }
  });
}
document.getElementById("videos").hidden = page.link.hidden = false;
update();
