// A model folder at a URL and pictures that were chosen or dropped, for the page.
import { Idefics2 } from './host.mjs';

const ERRORS_ONLY = 3; // of ONNX Runtime's levels of logging
const LIBRARY = './node_modules/onnxruntime-web/dist';

/** The model at a URL that ends with a slash. `provider` is wasm or webgpu; `onStep` hears what is being done. */
export async function openUrl(url, provider, onStep = () => {}) {
  const ort = await import(`${LIBRARY}/ort.${provider}.min.mjs`);
  const read = async (name) => {
    const answer = await fetch(url + name).catch(() => null);
    if (answer?.ok) return answer;
    throw new Error(`${url}${name} cannot be read (${answer?.status ?? 'no answer'}). Give the address of a model folder.`);
  };
  const json = async (name) => (await read(name)).json().catch(() => {
    throw new Error(`${url}${name} is not JSON. Give the address of a model folder.`);
  });
  const session = async (graph) => {
    onStep(`Loading ${graph}.onnx …`);
    const path = `${graph}.onnx.data`;
    const [model, data] = await Promise.all([`${graph}.onnx`, path].map(async (name) => (await read(name)).arrayBuffer()));
    const options = { executionProviders: [provider], externalData: [{ path, data }], logSeverityLevel: ERRORS_ONLY };
    return ort.InferenceSession.create(model, options);
  };
  return Idefics2.open(ort, { json, session });
}

/** The pixels of an image file as the Python runtime reads them: upright, transparency dropped, colours as they stand. */
export async function readPicture(file) {
  const asStored = { imageOrientation: 'from-image', premultiplyAlpha: 'none', colorSpaceConversion: 'none' };
  const bitmap = await createImageBitmap(file, asStored).catch(() => {
    throw new Error(`${file.name} is no picture that this browser can read. Give a JPEG, PNG or WebP file.`);
  });
  const { width, height } = bitmap, rgba = pixelsOf(bitmap), data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) data.set(rgba.subarray(from, from + 3), to);
  return { data, width, height };
}

/** RGBA bytes by way of WebGL: the other kind of canvas multiplies colours by their alpha, and so loses those of clear pixels. */
function pixelsOf(bitmap) {
  const { width, height } = bitmap, gl = new OffscreenCanvas(1, 1).getContext('webgl2');
  if (!gl) throw new Error('This browser has no WebGL 2, with which this page reads pictures. Use another browser.');
  const most = gl.getParameter(gl.MAX_TEXTURE_SIZE), pixels = new Uint8Array(width * height * 4);
  if (Math.max(width, height) > most) throw new Error(`The picture has ${width}×${height} pixels; ${most} a side are the most.`);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  gl.getExtension('WEBGL_lose_context')?.loseContext(); // browsers hold few contexts at once
  return pixels;
}
