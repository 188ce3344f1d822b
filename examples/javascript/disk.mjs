// A model folder and pictures on this computer's disk, for Node.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import sharp from 'sharp';
import { Idefics2 } from './host.mjs';

const ERRORS_ONLY = 3; // of ONNX Runtime's levels of logging
const PNG_COLOUR_TYPE = 25, PNG_ALPHA = 4; // a byte of the header and its bit

// RGB as Pillow makes it where sharp makes another: of inks without a profile, of grey in 16 bits cut at 255.
const COLOURS = {
  cmyk(data, pixel, channel) {
    const light = 255 - data[4 * pixel + 3], product = data[4 * pixel + channel] * light + 128;
    return light - ((product + (product >> 8)) >> 8);
  },
  grey16: (data, pixel) => (data[2 * pixel + 1] ? 255 : data[2 * pixel]),
};

/** The model of a folder. */
export async function openFolder(folder) {
  const session = (graph) => ort.InferenceSession.create(join(folder, `${graph}.onnx`), { logSeverityLevel: ERRORS_ONLY });
  return Idefics2.open(ort, { json: (name) => readJson(folder, name), session });
}

/** The pixels of a picture file as the Python runtime reads them: upright, transparency dropped, colours as they stand. */
export async function readPicture(file) {
  const bytes = await readFile(file).catch(() => { throw new Error(`There is no picture ${file}. Check the path.`); });
  try {
    const picture = sharp(bytes, { ignoreIcc: true }).autoOrient().removeAlpha(), { format, space } = await picture.metadata();
    const transparent = format === 'png' && bytes[PNG_COLOUR_TYPE] & PNG_ALPHA;
    const colour = transparent ? null : COLOURS[space], kept = colour ? space : 'srgb';
    if (colour) picture.pipelineColourspace(kept);
    const raw = picture.toColourspace(kept).raw({ depth: kept === 'grey16' ? 'ushort' : 'uchar' });
    const { data, info: { width, height } } = await raw.toBuffer({ resolveWithObject: true });
    if (!colour) return { data, width, height };
    const rgb = new Uint8Array(3 * width * height);
    for (let at = 0; at < rgb.length; at++) rgb[at] = colour(data, Math.trunc(at / 3), at % 3);
    return { data: rgb, width, height };
  } catch (error) {
    throw new Error(`${file} is no picture that can be read (${error.message.split('\n')[0]}). Give a JPEG, PNG or WebP file.`);
  }
}

async function readJson(folder, name) {
  try {
    return JSON.parse(await readFile(join(folder, name), 'utf8'));
  } catch (error) {
    throw new Error(`${join(folder, name)} cannot be read (${error.code ?? error.message}). Give a model folder.`);
  }
}
