// The page: sends files to the API and shows what it says. Texts are set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const list = new Intl.ListFormat("en", { type: "disjunction" });
let model = null;
let token = null;

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server does not answer. Has it been stopped?");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    $("token-form").hidden = false;
    $("token").focus();
  }
  let sentence = `The server refused with status ${answer.status}.`;
  try {
    sentence = (await answer.json()).error ?? sentence;
  } catch { /* a proxy's page */ }
  throw new Error(sentence);
}

function tell(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

async function open() {
  try {
    model = await (await ask("v1/model")).json();
  } catch (error) {
    tell(error.message, true);
    return;
  }
  $("token-form").hidden = true;
  tell("");
  document.title = `${model.name}: consilia`;
  $("name").textContent = model.name;
  $("about").textContent = `Classifies ${model.modality} images as ${list.format(model.classes)}.`;
  const names = { dicom: ["DICOM"], raster: ["PNG", "JPEG", "TIFF", "WebP", "BMP"] };
  const taken = Object.keys(names).filter((kind) => model.kinds.includes(kind) || model.on_unknown_kind !== "refuse");
  $("kinds").textContent =
    `${list.format(taken.flatMap((kind) => names[kind]))}; up to ${model.limits.images} images and ` +
    `${Math.floor(model.limits.bytes / 2 ** 20)} MiB at a time. They are deleted as soon as they are predicted.`;
  $("adjusted").textContent = adjustments().join(" ");
  $("adjusted").hidden = adjustments().length === 0;
  $("card-text").textContent = model.card;
  $("card").hidden = false;
  $("source").textContent = `consilia ${model.consilia}, bundle ${model.bundle}`;
}

function adjustments() {
  const said = [];
  if (model.deployed) {
    const shares = Object.entries(model.deployed).map(([name, share]) => `${name} ${percent(share)}`);
    said.push(`Probabilities are corrected for a population with ${shares.join(", ")}.`);
  }
  if (model.members_left_out) said.push(`${model.members_left_out} members of the ensemble are left out, for speed.`);
  return said;
}

async function predict(files) {
  if (files.length === 0) return;
  if (files.length > model?.limits.images) {
    tell(`At most ${model.limits.images} images go at a time, but these are ${files.length}.`, true);
    return;
  }
  const body = new FormData();
  for (const file of files) body.append("files", file);
  tell(files.length === 1 ? `Predicting ${files[0].name} ...` : `Predicting ${files.length} files ...`);
  try {
    const { images } = await (await ask("v1/predict", { method: "POST", body })).json();
    show(images, files);
  } catch (error) {
    tell(error.message, true);
  }
}

// Results come in the order of the files; a file with several frames has one for each.
function show(images, files) {
  let place = -1;
  const shown = images.map((image) => {
    if (!image.frame) place += 1;
    return draw(image, files[place]);
  });
  for (const old of $("results").querySelectorAll("img")) URL.revokeObjectURL(old.src);
  $("results").replaceChildren(...shown);
  const unreadable = images.filter((image) => image.error).length;
  const look = images.filter((image) => image.review?.length).length;
  const parts = [images.length === 1 ? summary(images[0]) : `${images.length} images predicted`];
  if (images.length > 1 && unreadable) parts[0] = `${images.length - unreadable} of ${images.length} images predicted`;
  if (images.length > 1 && look) parts.push(`${look} to look at yourself`);
  tell(`${parts.join("; ")}.`);
}

function summary(image) {
  if (image.error) return `${image.name} cannot be read`;
  if (image.unusual?.state === "rejected") return `${image.name} is rejected`;
  return `${image.name}: ${image.label}, ${percent(image.confidence)}`;
}

function draw(image, file) {
  const article = $("result").content.firstElementChild.cloneNode(true);
  const part = (selector) => article.querySelector(selector);
  part("h2").textContent = image.name;
  article.classList.add("without-picture");
  thumbnail(part(".thumbnail"), file, article);
  if (image.error) {
    article.classList.add("unreadable");
    part(".verdict").textContent = image.error.replace(`${image.name}: `, "");
    for (const rest of [".look", "table", ".set", ".familiarity", ".explain", "figure"]) part(rest).remove();
    return article;
  }
  const rejected = image.unusual?.state === "rejected";
  article.classList.toggle("rejected", rejected);
  part(".verdict").textContent = rejected
    ? "Rejected: unlike the training images"
    : `${image.label}, ${percent(image.confidence)}`;
  part(".look").hidden = image.review.length === 0;
  part(".look ul").replaceChildren(...image.review.map((reason) => element("li", reason)));
  if (rejected) part("caption").textContent = "Probabilities, which mean nothing for such an image";
  part("tbody").replaceChildren(...Object.entries(image.probabilities).map((each) => row(...each, image.label)));
  part(".set").textContent = setInWords(image);
  part(".familiarity").textContent = familiarity(image.unusual);
  explainable(article, image, file);
  return article;
}

function thumbnail(picture, file, article) {
  picture.addEventListener("load", () => {
    picture.hidden = false;
    article.classList.remove("without-picture");
  });
  picture.src = URL.createObjectURL(file); // a browser shows no DICOM, and then there is none
}

function row(name, probability, label) {
  const line = document.createElement("tr");
  line.classList.toggle("top", name === label);
  const head = element("th", name);
  head.scope = "row";
  const track = element("div", "", "track");
  const fill = element("div", "", "fill");
  fill.style.width = `${100 * probability}%`;
  track.append(fill);
  const bar = element("td", "", "bar");
  bar.setAttribute("aria-hidden", "true");
  bar.append(track);
  line.append(head, bar, element("td", percent(probability), "number"));
  return line;
}

function setInWords(image) {
  if (image.prediction_set === null) return image.without_set ? `No prediction set: ${image.without_set}.` : "";
  if (image.prediction_set.length === 0) return "Prediction set: empty, since no class fits well enough.";
  return `Prediction set: ${list.format(image.prediction_set)}.`;
}

function familiarity(unusual) {
  if (unusual === null) return "Not compared with the training images, since the ensemble holds nothing to compare with.";
  const state = { usual: "Usual", unusual: "Unusual", rejected: "Rejected" }[unusual.state];
  return `${state} among the training images (p\u00a0${unusual.p_value.toFixed(4)}).`;
}

function explainable(article, image, file) {
  const form = article.querySelector("form");
  const select = form.querySelector("select");
  const button = form.querySelector("button");
  select.replaceChildren(...model.classes.map((name) => new Option(name, name, false, name === image.label)));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    tell(`Drawing the heat map of ${image.name} ...`);
    try {
      await explain(article.querySelector("figure"), image, file, select.value);
    } catch (error) {
      tell(error.message, true);
    }
    button.disabled = false;
  });
}

async function explain(figure, image, file, label) {
  const body = new FormData();
  body.append("file", file);
  body.append("label", label);
  if (image.frame !== null) body.append("frame", image.frame);
  const answer = await ask("v1/explain", { method: "POST", body });
  const facts = JSON.parse(answer.headers.get("Consilia-Explanation"));
  const picture = figure.querySelector("img");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(await answer.blob());
  picture.alt = facts.says_nothing_because ?? `Heat map: which places of ${image.name} speak for ${facts.label}`;
  figure.querySelector("figcaption").textContent = model.caution;
  figure.hidden = false;
  tell(facts.says_nothing_because ?? `The heat map of ${image.name} for ${facts.label} is drawn.`);
}

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function percent(share) {
  const text = (100 * share).toFixed(1);
  if (text === "100.0" && share < 1) return ">\u00a099.9\u00a0%";
  if (text === "0.0" && share > 0) return "<\u00a00.1\u00a0%";
  return `${text}\u00a0%`;
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  open();
});
$("files").addEventListener("change", (event) => {
  predict([...event.target.files]);
});
const drop = $("drop");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  predict([...event.dataTransfer.files]);
});
open();
