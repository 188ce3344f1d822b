// A model folder and pictures on this computer's disk, for Node.
import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import sharp from 'sharp';
import { Idefics2 } from './host.mjs';

const ERRORS_ONLY = 3; // of ONNX Runtime's levels of logging

/** The model of a folder. */
export async function openFolder(folder) {
  const session = (graph) => ort.InferenceSession.create(join(folder, `${graph}.onnx`), { logSeverityLevel: ERRORS_ONLY });
  return Idefics2.open(ort, { json: (name) => readJson(folder, name), session });
}

/** The pixels of a picture file as the Python runtime reads them: upright, transparency dropped, colours as they stand. */
export async function readPicture(file) {
  await access(file).catch(() => { throw new Error(`There is no picture ${file}. Check the path.`); });
  try {
    const picture = sharp(file, { ignoreIcc: true }).autoOrient().removeAlpha().toColourspace('srgb').raw();
    const { data, info } = await picture.toBuffer({ resolveWithObject: true });
    return { data, width: info.width, height: info.height };
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
