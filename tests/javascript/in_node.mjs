// Does one job of the tests in Node: JSON from standard input, results as JSON to standard output.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { openFolder, readPicture } from '../../examples/javascript/disk.mjs';
import { Idefics2, tiles } from '../../examples/javascript/host.mjs';

const TRANSFORMERS = '../../examples/javascript/node_modules/@huggingface/transformers/dist/transformers.node.mjs';
const digest = (values) => createHash('sha256').update(values).digest('hex');
const ort = { Tensor: class { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } } };

/** A host that reads a folder's files, changed as a job says, and runs stand-ins of the graphs. */
function withoutGraphs({ folder, changes = {} }, sessions = {}) {
  const json = async (name) => ({ ...JSON.parse(readFileSync(`${folder}/${name}`, 'utf8')), ...changes[name] });
  return Idefics2.open(ort, { json, session: async (graph) => sessions[graph] });
}

const JOBS = {
  async answers({ folder, questions, maxNewTokens }) {
    const model = await openFolder(folder), found = [];
    for (const { images, question } of questions) {
      const answer = { ids: [], text: '' };
      for await (const { id, text } of model.answer(await Promise.all(images.map(readPicture)), question, maxNewTokens)) {
        answer.ids.push(id);
        answer.text += text;
      }
      found.push(answer);
    }
    return found;
  },

  pictures: async ({ files }) => Promise.all(files.map(async (file) => {
    const { data, width, height } = await readPicture(file);
    return { width, height, digest: digest(data) };
  })),

  async tiles({ pictures, ...job }) {
    const host = await withoutGraphs(job);
    return pictures.map(({ file, width, height }) => [...tiles({ data: readFileSync(file), width, height }, host.images)].map((tile) => {
      const { dims, data } = host.pixelValues(tile);
      return { shape: dims.slice(1), digest: digest(new Uint8Array(data.buffer)) };
    }));
  },

  async prompts({ prompts, ...job }) {
    const host = await withoutGraphs(job);
    return prompts.map((prompt) => host.promptIds(prompt, prompt.split('<image>').length - 1));
  },

  /** The pieces of text that an answer of given tokens comes in. */
  async pieces({ answers, ...job }) {
    const found = [];
    let ids, step;
    const run = async () => {
      const data = new Float32Array(Math.max(...ids) + 1);
      data[ids[step++]] = 1;
      return { logits: { data } };
    };
    const host = await withoutGraphs(job, { embedding: { run: async () => ({}) }, decoder: { run, inputNames: [] } });
    for (const answer of answers) {
      const pieces = [];
      [ids, step] = [answer, 0];
      for await (const { text } of host.answer([], 'Hello', ids.length)) pieces.push(text);
      found.push(pieces);
    }
    return found;
  },

  /** The tokens that transformers.js answers with from a layout of its own; tiles and prompt are the host's. */
  async transformersJs({ layout, dtype, picture, question, maxNewTokens, ...job }) {
    const { env, LlavaForConditionalGeneration, PretrainedConfig, Tensor } = await import(TRANSFORMERS);
    env.allowRemoteModels = false;
    const config = new PretrainedConfig({ ...JSON.parse(readFileSync(`${layout}/config.json`, 'utf8')), model_type: 'llava' });
    const model = await LlavaForConditionalGeneration.from_pretrained(layout, { dtype, config });
    const host = Object.assign(await withoutGraphs(job), { ort: { Tensor } }), ids = host.promptIds(question, 1);
    const each = [...tiles(await readPicture(picture), host.images)].map((tile) => host.pixelValues(tile));
    const pixel_values = host.tensor(each.flatMap((tile) => [...tile.data]), [each.length, ...each[0].dims.slice(1)]);
    const [input_ids, attention_mask] = [ids, ids.map(() => 1)].map((row) => host.integers(row));
    const found = await model.generate({ input_ids, attention_mask, pixel_values, max_new_tokens: maxNewTokens });
    return Array.from(found.data, Number).slice(ids.length);
  },

  async likeliest({ rows, ...job }) {
    const host = await withoutGraphs(job);
    return rows.map(({ logits, history }) => host.likeliest(Float32Array.from(logits), history));
  },
};

const { what, ...job } = JSON.parse(await text(process.stdin));
process.stdout.write(JSON.stringify(await JOBS[what](job)));
