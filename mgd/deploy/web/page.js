// Runs model.onnx on photos and the webcam: pixels in, label map out, drawn over the picture.
const MODEL = "model.onnx", LARGEST = 1024; // longer side of photos: as shown, and for a network that takes any size
const RUNS = 40, SECONDS = 4; // timed at the start, at most: browsers compile WebAssembly well once it has run a while
const $ = (id) => document.getElementById(id);
const photo = $("photo").getContext("2d"), mask = $("mask").getContext("2d");
const input = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const LEAST = 0.98; // share of the example's pixels that must have Python's labels: processors round differently
const NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };
let ort, session, provider, card, palette, example, expected, agreement, camera = null, turn = Promise.resolve();

async function start() {
  $("status").textContent = "loading the network ..."; // what stood there is for a page whose script may not run
  card = await (await get(`${MODEL}.json`)).json();
  palette = new Uint32Array(Uint8Array.from(card.classes.flatMap(({ color }) => [...color, 255])).buffer); // RGBA
  for (const { name, color } of card.classes) {
    const item = document.createElement("li");
    const box = document.createElement("i");
    box.style.background = `rgb(${color})`;
    item.append(box, name);
    $("legend").append(item);
  }
  [example, expected] = [await load("example.png"), await load("example-label.png")];
  await open();
  await show(example);
  $("status").textContent = `${doubt()}measuring ...`;
  const { milliseconds, width, height } = await timed(example);
  $("status").textContent = doubt();
  const rate = (1000 / milliseconds).toFixed(1);
  report(`; ${milliseconds.toFixed(1)} ms a picture of ${width}x${height} (${rate} a second)`);
}

// WebGPU where the browser has it and it gives the example's labels, else WebAssembly.
async function open() {
  if (navigator.gpu && (await navigator.gpu.requestAdapter().catch(() => null))) {
    try {
      await use("webgpu");
      if (agreement >= LEAST) return;
      console.warn(`WebGPU will not do: ${share()}`);
    } catch (error) {
      console.warn("WebGPU will not do:", error);
    }
  }
  await use("wasm");
}

// Opens the network and tests it on the example.
async function use(name) {
  provider = null; // until the test is done
  session?.release().catch(() => {}); // not waited for: a device that is lost may never answer
  ort = await import(`./runtime/ort.${name}.min.mjs`);
  ort.env.wasm.wasmPaths = new URL("runtime/", location.href).href;
  if (!self.crossOriginIsolated) ort.env.wasm.numThreads = 1; // threads need headers that a plain server does not send
  const model = new Uint8Array(await (await get(MODEL)).arrayBuffer());
  session = await ort.InferenceSession.create(model, { executionProviders: [name] });
  agreement = await agreementWith(expected, example);
  provider = name;
}

const share = () => `${(100 * agreement).toFixed(3)} % of the example's pixels have the label that Python gave`;

function report(rest) {
  $("selftest").textContent = `${NAMES[provider]}; self-test: ${share()}${rest}`;
}

// What comes before all that is said of results, where the self-test failed.
function doubt() {
  return agreement >= LEAST ? "" : `The results are not to be trusted: only ${share()}. `;
}

// A file of this folder, asked for again each time: plain servers do not say how long one is good for, and the folder
// may have been exported again.
async function get(name) {
  const answer = await fetch(name, { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${name} cannot be fetched (${answer.status} ${answer.statusText})`);
  return answer;
}

async function load(name) {
  return createImageBitmap(await (await get(name)).blob(), { colorSpaceConversion: "none" });
}

const sizeOf = (picture) => [picture.videoWidth || picture.width, picture.videoHeight || picture.height];

// Width and height of a picture whose longer side is LARGEST at most, its shorter one `least` at least.
function limited([width, height], least) {
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  return [Math.max(least, Math.round(width * scale)), Math.max(least, Math.round(height * scale))];
}

function draw(context, picture, [width, height]) {
  const { canvas } = context;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, width, height); // a picture with transparency leaves of the one before nothing
  context.drawImage(picture, 0, 0, width, height);
}

// The size at which the network sees a picture.
function seen(picture) {
  const [, height, width] = card.input.shape;
  return typeof height === "number" ? [width, height] : limited(sizeOf(picture), 33);
}

// A photo, upright as EXIF says, without transparency.
async function decode(file) {
  const picture = await createImageBitmap(file), [width, height] = limited(sizeOf(picture), 1);
  draw(input, picture, [width, height]);
  const rgba = input.getImageData(0, 0, width, height).data;
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] < 255) return opaque(file, picture);
  return picture;
}

// A photo's colours as Python reads them, whatever its transparency; a canvas would lose those of clear pixels. That is
// what it gives nonetheless where WebGL is not there or takes no picture of this size.
async function opaque(file, { width, height }) {
  const picture = await createImageBitmap(file, { premultiplyAlpha: "none" });
  const gl = new OffscreenCanvas(1, 1).getContext("webgl"), texture = gl?.createTexture();
  if (!texture) return picture;
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const whole = gl.checkFramebufferStatus(gl.FRAMEBUFFER) === gl.FRAMEBUFFER_COMPLETE;
  const pixels = new ImageData(width, height);
  if (whole) gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(pixels.data.buffer));
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers lend few
  if (!whole) return picture;
  for (let i = 3; i < pixels.data.length; i += 4) pixels.data[i] = 255;
  return createImageBitmap(pixels);
}

async function segment(picture, size = seen(picture)) {
  const [width, height] = size, begun = performance.now();
  draw(input, picture, size);
  const rgba = input.getImageData(0, 0, width, height).data, rgb = new Uint8Array(3 * width * height);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    rgb[j++] = rgba[i]; rgb[j++] = rgba[i + 1]; rgb[j++] = rgba[i + 2];
  }
  const outputs = await run(rgb, [1, height, width, 3]);
  return { label: outputs.label.data, width, height, milliseconds: performance.now() - begun };
}

// What WebGPU fails at, such as a photo that is too large for it, and all that follows, WebAssembly does.
async function run(rgb, shape) {
  const once = () => session.run({ image: new ort.Tensor("uint8", rgb, shape) });
  try {
    return await once();
  } catch (error) {
    if (provider !== "webgpu") throw error;
    console.warn("WebGPU failed:", error);
  }
  await use("wasm");
  report("; WebGPU failed");
  return once();
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
  $("status").textContent = `${doubt()}${width}x${height}, ${result.milliseconds.toFixed(0)} ms`;
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

// One picture after the other, so that a photo is not drawn over by a frame that was before it.
const inTurn = (work) => (turn = turn.catch(() => {}).then(work));

function stopWebcam() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  $("webcam").textContent = "Webcam";
}

async function toggleWebcam() {
  if (camera) return stopWebcam();
  if (!navigator.mediaDevices) throw new Error("browsers lend a webcam to localhost and encrypted pages alone");
  $("webcam").disabled = true; // until the stream is there: another click would ask for a second one
  const stream = await navigator.mediaDevices
    .getUserMedia({ video: { facingMode: "environment" } }) // a phone's other side
    .finally(() => ($("webcam").disabled = false));
  camera = stream;
  $("webcam").textContent = "Stop";
  stream.getVideoTracks()[0].addEventListener("ended", () => camera === stream && lose());
  try {
    await film(stream);
  } catch (error) {
    if (camera !== stream) return; // it is stopped, and what that interrupts is no error
    stopWebcam();
    throw error;
  }
}

// Segments what the webcam sees until it is stopped.
async function film(stream) {
  $("video").srcObject = stream;
  await $("video").play();
  let before = performance.now(), took = 0; // milliseconds from picture to picture, smoothed
  while (camera === stream) {
    await inTurn(async () => {
      if (camera !== stream) return;
      await show($("video"));
      const now = performance.now();
      took = took ? 0.9 * took + 0.1 * (now - before) : now - before;
      before = now;
      $("status").textContent += `, ${(1000 / took).toFixed(1)} pictures a second`;
    });
    await new Promise(requestAnimationFrame);
  }
}

function lose() {
  stopWebcam();
  const why = "it was unplugged, or may not be used any more";
  inTurn(() => ($("status").textContent = `the webcam gives no more pictures: ${why}`));
}

// Shows the first of the files that were dropped or chosen, and no longer the webcam.
async function take(files) {
  stopWebcam();
  await ready;
  await inTurn(async () => {
    if (!files.length) throw new Error("no file came with that; save the picture, then drop or choose its file");
    await show(await decode(files[0]));
    if (files.length > 1) $("status").textContent += `; of ${files.length} files the first is shown, ${files[0].name}`;
  });
}

function tell(error) {
  $("status").textContent = `that did not work: ${error.message || error}`;
}

const ready = start().then(() => ($("webcam").disabled = false));
const opacity = () => ($("mask").style.opacity = $("opacity").value / 100);
opacity();
$("opacity").addEventListener("input", opacity);
$("file").addEventListener("change", ({ target: { files } }) => files.length && take([...files]).catch(tell));
$("webcam").addEventListener("click", () => toggleWebcam().catch(tell));
// All over the page: beside the box a browser would leave the page and open the photo.
document.addEventListener("dragover", (event) => (event.preventDefault(), $("drop").classList.add("over")));
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take([...event.dataTransfer.files]).catch(tell);
});
ready.catch(tell);
