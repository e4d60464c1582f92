// Runs model.onnx on photos and the webcam: pixels in, label map out, drawn over the picture.
const MODEL = "model.onnx", LARGEST = 1024; // longer side of photos: as shown, and for a network that takes any size
const RUNS = 40, SECONDS = 4; // timed at the start, at most: browsers compile WebAssembly well once it has run for a while
const $ = (id) => document.getElementById(id);
const photo = $("photo").getContext("2d"), mask = $("mask").getContext("2d");
const input = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
let ort, session, card, palette, camera = null;

async function start() {
  card = await (await fetch(`${MODEL}.json`)).json();
  palette = new Uint32Array(Uint8Array.from(card.classes.flatMap(({ color }) => [...color, 255])).buffer); // RGBA
  for (const { name, color } of card.classes) {
    const item = document.createElement("li");
    const box = document.createElement("i");
    box.style.background = `rgb(${color})`;
    item.append(box, name);
    $("legend").append(item);
  }
  const provider = await open(), example = await load("example.png");
  await show(example);
  const agreement = await agreementWith(await load("example-label.png"), example);
  const said = `${provider}; self-test: ${(100 * agreement).toFixed(3)} % of the example's pixels have the label that Python gave`;
  $("status").textContent = "measuring ...";
  const { milliseconds, width, height } = await timed(example);
  $("status").textContent = "";
  $("selftest").textContent =
    `${said}; ${milliseconds.toFixed(1)} ms a picture of ${width}x${height} (${(1000 / milliseconds).toFixed(1)} a second)`;
}

// WebGPU where the browser has it and it can run this network, else WebAssembly.
async function open() {
  if (navigator.gpu && (await navigator.gpu.requestAdapter().catch(() => null))) {
    try {
      ort = await import("./runtime/ort.webgpu.min.mjs");
      return await create("webgpu", "WebGPU");
    } catch (error) {
      console.warn("WebGPU will not do:", error);
    }
  }
  ort = await import("./runtime/ort.wasm.min.mjs");
  return create("wasm", "WebAssembly");
}

async function create(provider, name) {
  ort.env.wasm.wasmPaths = new URL("runtime/", location.href).href;
  if (!self.crossOriginIsolated) ort.env.wasm.numThreads = 1; // threads need headers that a plain server does not send
  session = await ort.InferenceSession.create(MODEL, { executionProviders: [provider] });
  return name;
}

async function load(url) {
  return createImageBitmap(await (await fetch(url)).blob(), { colorSpaceConversion: "none" });
}

const sizeOf = (picture) => [picture.videoWidth || picture.width, picture.videoHeight || picture.height];

// Width and height of a picture whose longer side is LARGEST at most, its shorter one `least` at least.
function limited([width, height], least) {
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  return [Math.max(least, Math.round(width * scale)), Math.max(least, Math.round(height * scale))];
}

function draw(context, picture, [width, height]) {
  if (context.canvas.width !== width || context.canvas.height !== height) Object.assign(context.canvas, { width, height });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
}

// The size at which the network sees a picture.
function seen(picture) {
  const [, height, width] = card.input.shape;
  return typeof height === "number" ? [width, height] : limited(sizeOf(picture), 33);
}

async function segment(picture, size = seen(picture)) {
  const [width, height] = size, begun = performance.now();
  draw(input, picture, size);
  const rgba = input.getImageData(0, 0, width, height).data, rgb = new Uint8Array(3 * width * height);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    rgb[j++] = rgba[i]; rgb[j++] = rgba[i + 1]; rgb[j++] = rgba[i + 2];
  }
  const outputs = await session.run({ image: new ort.Tensor("uint8", rgb, [1, height, width, 3]) });
  return { label: outputs.label.data, width, height, milliseconds: performance.now() - begun };
}

async function show(picture) {
  const result = await segment(picture);
  const { label, width, height } = result;
  const colors = new ImageData(width, height), pixels = new Uint32Array(colors.data.buffer);
  const present = new Uint8Array(256);
  for (let i = 0; i < label.length; i++) {
    pixels[i] = palette[label[i]];
    present[label[i]] = 1;
  }
  draw(photo, picture, limited(sizeOf(picture), 1));
  Object.assign($("mask"), { width, height });
  $("stack").style.width = `min(100%, ${(60 * $("photo").width) / $("photo").height}vh)`;
  mask.putImageData(colors, 0, 0);
  [...$("legend").children].forEach((item, i) => item.classList.toggle("absent", !present[i]));
  $("status").textContent = `${width}x${height}, ${result.milliseconds.toFixed(0)} ms`;
  return result;
}

// Share of a picture's pixels whose labels are those of a grey picture, at the size of that.
async function agreementWith(expected, picture) {
  const { label, width, height } = await segment(picture, sizeOf(expected));
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.drawImage(expected, 0, 0);
  const truth = canvas.getImageData(0, 0, width, height).data;
  return label.reduce((sum, index, i) => sum + (index === truth[4 * i]), 0) / label.length;
}

// The median time of the last runs.
async function timed(picture) {
  const times = [], until = performance.now() + 1000 * SECONDS;
  let result;
  while (times.length < RUNS && (times.length < 5 || performance.now() < until)) {
    times.push((result = await segment(picture)).milliseconds);
    await new Promise((done) => setTimeout(done)); // the page stays alive
  }
  const last = times.slice(-11).sort((a, b) => a - b);
  return { ...result, milliseconds: last[Math.floor(last.length / 2)] };
}

async function toggleWebcam() {
  if (camera) {
    camera.getTracks().forEach((track) => track.stop());
    camera = null;
    $("webcam").textContent = "Webcam";
    return;
  }
  if (!navigator.mediaDevices) throw new Error("browsers lend a webcam to localhost and to pages that come encrypted alone");
  $("webcam").disabled = true; // until the stream is there: another click would ask for a second one
  camera = await navigator.mediaDevices
    .getUserMedia({ video: { facingMode: "environment" } }) // a phone's other side
    .finally(() => ($("webcam").disabled = false));
  $("webcam").textContent = "Stop";
  $("video").srcObject = camera;
  await $("video").play();
  let before = performance.now(), took = 0; // milliseconds from picture to picture, smoothed
  while (camera) {
    await show($("video"));
    const now = performance.now();
    took = took ? 0.9 * took + 0.1 * (now - before) : now - before;
    before = now;
    $("status").textContent += `, ${(1000 / took).toFixed(1)} pictures a second`;
    await new Promise(requestAnimationFrame);
  }
}

function tell(error) {
  $("status").textContent = `that did not work: ${error.message || error}`;
}

const ready = start().then(() => ($("webcam").disabled = false));
const opacity = () => ($("mask").style.opacity = $("opacity").value / 100);
const take = (file) => file && ready.then(() => createImageBitmap(file)).then(show).catch(tell); // upright, as EXIF says
opacity();
$("opacity").addEventListener("input", opacity);
$("file").addEventListener("change", (event) => take(event.target.files[0]));
$("webcam").addEventListener("click", () => toggleWebcam().catch(tell));
$("drop").addEventListener("dragover", (event) => (event.preventDefault(), $("drop").classList.add("over")));
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
ready.catch(tell);
