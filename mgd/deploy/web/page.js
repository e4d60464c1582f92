// Runs model.onnx on photos and the webcam: pixels in, label map out, drawn over the picture.
const MODEL = "model.onnx", LARGEST = 1024; // longer side of photos for a network that takes any size
const $ = (id) => document.getElementById(id);
const photo = $("photo").getContext("2d", { willReadFrequently: true });
const mask = $("mask").getContext("2d");
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
  const provider = await open();
  const result = await selfTest();
  await show(await load("example.png"));
  $("selftest").textContent =
    `${provider}; self-test: ${(100 * result.agreement).toFixed(3)} % of the example's pixels have the label that ` +
    `Python gave; ${result.milliseconds.toFixed(1)} ms a picture of ${result.width}x${result.height} ` +
    `(${(1000 / result.milliseconds).toFixed(1)} a second)`;
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

// Width and height at which the network gets a picture.
function sizeFor(picture) {
  const [, height, width] = card.input.shape;
  if (typeof height === "number") return [width, height];
  const [own, other] = [picture.videoWidth || picture.width, picture.videoHeight || picture.height];
  const scale = Math.min(1, LARGEST / Math.max(own, other));
  return [Math.max(33, Math.round(own * scale)), Math.max(33, Math.round(other * scale))];
}

async function segment(picture) {
  const [width, height] = sizeFor(picture);
  Object.assign($("photo"), { width, height });
  photo.drawImage(picture, 0, 0, width, height);
  const rgba = photo.getImageData(0, 0, width, height).data, rgb = new Uint8Array(3 * width * height);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    rgb[j++] = rgba[i]; rgb[j++] = rgba[i + 1]; rgb[j++] = rgba[i + 2];
  }
  const begun = performance.now();
  const outputs = await session.run({ image: new ort.Tensor("uint8", rgb, [1, height, width, 3]) });
  return { label: outputs.label.data, width, height, milliseconds: performance.now() - begun };
}

async function show(picture) {
  const result = await segment(picture);
  const { label, width, height } = result;
  const colors = new ImageData(width, height), pixels = new Uint32Array(colors.data.buffer), present = new Set(label);
  for (let i = 0; i < label.length; i++) pixels[i] = palette[label[i]];
  Object.assign($("mask"), { width, height });
  mask.putImageData(colors, 0, 0);
  [...$("legend").children].forEach((item, i) => item.classList.toggle("absent", !present.has(i)));
  $("status").textContent = `${width}x${height}, ${result.milliseconds.toFixed(0)} ms`;
  return result;
}

// The example's labels as Python computed them, and the median time of ten runs.
async function selfTest() {
  const expected = await load("example-label.png");
  const canvas = new OffscreenCanvas(expected.width, expected.height).getContext("2d");
  canvas.drawImage(expected, 0, 0);
  const truth = canvas.getImageData(0, 0, expected.width, expected.height).data;
  const example = await load("example.png"), times = [];
  let result;
  for (let i = 0; i < 11; i++) times.push((result = await segment(example)).milliseconds);
  const same = result.label.reduce((sum, index, i) => sum + (index === truth[4 * i]), 0);
  times.sort((a, b) => a - b);
  return { ...result, agreement: same / result.label.length, milliseconds: times[5] };
}

async function toggleWebcam() {
  if (camera) {
    camera.getTracks().forEach((track) => track.stop());
    camera = null;
    $("webcam").textContent = "Webcam";
    return;
  }
  camera = await navigator.mediaDevices.getUserMedia({ video: true });
  $("webcam").textContent = "Stop";
  $("video").srcObject = camera;
  await $("video").play();
  while (camera) {
    const begun = performance.now();
    await show($("video"));
    $("status").textContent += `, ${(1000 / (performance.now() - begun)).toFixed(1)} pictures a second`;
    await new Promise(requestAnimationFrame);
  }
}

function tell(error) {
  $("status").textContent = `that did not work: ${error.message || error}`;
}

const opacity = () => ($("mask").style.opacity = $("opacity").value / 100);
const take = (file) => file && createImageBitmap(file).then(show).catch(tell); // upright, as its EXIF says
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
start().catch(tell);
