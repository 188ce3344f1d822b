// A host for folders of `idefics2-onnx export`: pictures and a question in, an answer in pieces out. Nothing here knows Node or a
// browser. The contract is docs/model-folder.md; comments name the file of the Python runtime that a step follows.
import { Tokenizer } from '@huggingface/tokenizers';

const FORMAT = 3, BILINEAR = 2; // the filter's number in Pillow
const IMAGE = '<image>', FAKE = '<fake_token_around_image>', BYTE_TOKEN = /^<0x[0-9A-F]{2}>$/i;
const AS_IT_IS = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
// fp16 goes as its bits: only newer engines have Float16Array, and ONNX Runtime takes both.
const NUMBERS = { fp32: { type: 'float32', List: Float32Array }, fp16: { type: 'float16', List: Uint16Array } };

export class Idefics2 {
  /** `ort` is onnxruntime-node or -web; `io` reads the folder: json(file name) and session(graph name) give promises. */
  static async open(ort, io) {
    const { format_version: version, architecture, dtype, model, files } = await io.json('idefics2_onnx.json');
    if (version !== FORMAT) throw new Error(`The folder has format ${version}; this host reads ${FORMAT}. Export it again.`);
    if (architecture !== 'idefics2') throw new Error(`The folder holds the model ${architecture}; this host runs idefics2 only.`);
    if (!NUMBERS[dtype]) throw new Error(`The folder computes in ${dtype}; this host has no such numbers. Export with --fp16.`);
    const config = async (name) => (name in files ? io.json(name) : {}); // not every folder has all of them
    const images = (await config('processor_config.json')).image_processor ?? await config('preprocessor_config.json');
    const usual = ['do_resize', 'do_rescale', 'do_normalize'].every((step) => images[step] !== false) && images.size.longest_edge;
    if (!usual || images.resample !== BILINEAR) throw new Error('The folder prepares images in a way unknown to this host.');
    const tokens = await io.json('tokenizer.json'), generation = await config('generation_config.json');
    const host = Object.assign(new Idefics2(), { ort, model, images, ...NUMBERS[dtype] });
    host.tilesPerImage = images.do_image_splitting ? 5 : 1;
    host.tokenizer = new Tokenizer(tokens, await io.json('tokenizer_config.json'));
    host.special = new Set(tokens.added_tokens.filter((token) => token.special).map((token) => token.id));
    host.ends = new Set([generation.eos_token_id ?? (await io.json('config.json')).text_config.eos_token_id].flat());
    host.badWords = (generation.bad_words_ids ?? []).filter((word) => word.length > 1 || !host.ends.has(word[0]));
    for (const graph of ['vision', 'embedding', 'decoder']) host[graph] = await io.session(graph);
    return host;
  }

  /** Yields { id, text } of each token: the text that it makes certain, maybe ''. Images: { data: RGB bytes, width, height }. */
  async *answer(images, question, maxNewTokens = 256) {
    const history = this.promptIds(question, images.length), start = history.length, past = {};
    const end = Math.min(start + maxNewTokens, this.model.max_positions);
    if (start >= end) throw new Error(`The prompt has ${start} tokens, which leaves no room for an answer. Give fewer images.`);
    let features = await this.features(images), ids = history, image = 0, sent = 0, last = false;
    const empty = this.tensor([], [1, this.model.num_key_value_heads, 0, this.model.head_dim]);
    for (const name of this.decoder.inputNames) if (name.startsWith('past_key_values')) past[name] = empty;
    while (!last) {
      const rows = ids.map((id) => (ids === history && id === this.model.image_token_id ? image++ : -1));
      const [input_ids, feature_rows, logit_positions] = [ids, rows, [ids.length - 1]].map((row) => this.integers(row));
      const { inputs_embeds } = await this.embedding.run({ input_ids, feature_rows, image_features: features });
      const attention_mask = this.integers(Array(history.length).fill(1));
      const { logits, ...present } = await this.decoder.run({ inputs_embeds, attention_mask, logit_positions, ...past });
      for (const name in present) past[name.replace('present', 'past_key_values')] = present[name];
      const id = this.likeliest(logits.data, history);
      history.push(id);
      [ids, features] = [[id], this.tensor([], [0, this.model.hidden_size])];
      last = this.ends.has(id) || history.length === end;
      const text = this.tokenizer.decode(history.slice(start), AS_IT_IS);
      // Bytes of a character are tokens of their own; what they say is certain behind the last of them (text_stream.py).
      const open = this.special.has(id) || BYTE_TOKEN.test(this.tokenizer.id_to_token(id)) || text.endsWith('\ufffd');
      yield { id, text: open && !last ? '' : text.slice(sent) };
      if (!open) sent = text.length;
    }
  }

  /** Ids of one turn of a conversation, in the words of Idefics2's chat template (runtime/text/prompt.py). */
  promptIds(question, count) {
    const tagged = question.includes(IMAGE) ? question : IMAGE.repeat(count) + question;
    if (tagged.split(IMAGE).length - 1 !== count) throw new Error(`There are ${count} images. Put one ${IMAGE} for each.`);
    const turn = `User:${tagged.startsWith(IMAGE) ? '' : ' '}${tagged}<end_of_utterance>\nAssistant:`;
    const tile = FAKE + IMAGE.repeat(this.model.tokens_per_image) + FAKE;
    const expanded = turn.replaceAll(IMAGE, tile.repeat(this.tilesPerImage)).replaceAll(FAKE + FAKE, FAKE);
    return this.tokenizer.encode(expanded.replaceAll(new RegExp(`${FAKE}(?=[^\\s<])`, 'g'), `${FAKE} `)).ids;
  }

  /** The likeliest token that neither is nor ends a bad word. */
  likeliest(logits, history) {
    const isBegun = (word) => word.slice(0, -1).every((id, at) => history[history.length + 1 - word.length + at] === id);
    for (const word of this.badWords) if (isBegun(word)) logits[word.at(-1)] = -Infinity;
    let best = 0;
    for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
    return best;
  }

  /** Rows of image features of all tiles, tile by tile: their sizes differ. */
  async features(images) {
    const { hidden_size: width, image_seq_len: rows } = this.model, count = images.length * this.tilesPerImage;
    const all = new this.List(count * rows * width);
    for (const [index, tile] of images.flatMap((image) => [...tiles(image, this.images)]).entries()) {
      const { data } = (await this.vision.run({ pixel_values: this.pixelValues(tile) })).image_features;
      all.set(new this.List(data.buffer, data.byteOffset, data.length), index * rows * width);
    }
    return this.tensor(all, [count * rows, width]);
  }

  /** Bytes of a tile, rescaled and normalised with float32's roundings (runtime/images/pixels.py), channels first. */
  pixelValues({ data, width, height }) {
    const { rescale_factor: factor = 1 / 255, image_mean: mean = 0.5, image_std: std = 0.5 } = this.images, f = Math.fround;
    const values = new this.List(3 * width * height), area = width * height;
    for (let channel = 0; channel < 3; channel++) {
      const [middle, spread] = [mean, std].map((option) => f(option[channel] ?? option));
      let table = Array.from({ length: 256 }, (_, byte) => f(f(f(byte * factor) - middle) / spread));
      if (this.type === 'float16') table = table.map(halfBits);
      for (let at = 0; at < area; at++) values[channel * area + at] = table[data[3 * at + channel]];
    }
    return this.tensor(values, [1, 3, height, width]);
  }

  tensor(values, shape) { return new this.ort.Tensor(this.type, new this.List(values), shape); }
  integers(row) { return new this.ort.Tensor('int64', BigInt64Array.from(row, BigInt), [1, row.length]); }
}

/** The whole of an image, behind its four quarters if it is split, each resized (runtime/images/geometry.py). */
export function* tiles({ data, width, height }, { do_image_splitting: split, size: { longest_edge: longest, shortest_edge } }) {
  const x = width >> 1, y = height >> 1, whole = [0, 0, width, height];
  if (split && !y) throw new Error(`The image is ${width}×${height} pixels, too small to split in four. Use a larger image.`);
  const boxes = split ? [[0, 0, x, y], [x, 0, width, y], [0, y, x, height], [x, y, width, height], whole] : [whole];
  for (const [left, upper, right, lower] of boxes) {
    const w = right - left, h = lower - upper, ratio = w / h, part = new Uint8Array(w * h * 3);
    const from = (row) => ((upper + row) * width + left) * 3, long = Math.max(w, h) > longest;
    for (let row = 0; row < h; row++) part.set(data.subarray(from(row), from(row) + w * 3), row * w * 3);
    const shrunk = w >= h ? [longest, Math.trunc(longest / ratio)] : [Math.trunc(longest * ratio), longest];
    const [wide, high] = (long ? shrunk : [w, h]).map((side) => Math.max(side, shortest_edge));
    // Pillow changes the width first, but the height where that loses more than twice as many pixels (since Pillow 13).
    const resized = h > high && h - high > 2 * (w - wide) ? resample(resample(part, 1, h, w * 3, high), high, w, 3, wide)
      : resample(resample(part, h, w, 3, wide), 1, h, wide * 3, high);
    yield { data: resized, width: wide, height: high };
  }
}

/** One pass of Pillow's bilinear resize, bit for bit, along the middle axis of bytes [outer, length, inner]. */
function resample(bytes, outer, length, inner, size) {
  if (length === size) return bytes;
  const scale = length / size, reach = Math.max(scale, 1), step = 1 / reach, out = new Uint8Array(outer * size * inner);
  for (let at = 0; at < size; at++) {
    const centre = (at + 0.5) * scale;
    const from = Math.max(0, Math.trunc(centre - reach + 0.5)), to = Math.min(length, Math.trunc(centre + reach + 0.5));
    const shares = Array.from({ length: to - from }, (_, k) => Math.max(0, 1 - Math.abs((k + from - centre + 0.5) * step)));
    const sum = shares.reduce((a, b) => a + b, 0), weights = shares.map((share) => Math.trunc(0.5 + (share / sum) * 2 ** 22));
    for (let o = 0; o < outer; o++) for (let i = 0; i < inner; i++) {
      let total = 2 ** 21;
      for (let k = 0; k < weights.length; k++) total += bytes[(o * length + from + k) * inner + i] * weights[k];
      out[(o * size + at) * inner + i] = Math.min(255, total >> 22);
    }
  }
  return out;
}

/** The bits of a float32 as float16, halves to even. */
function halfBits(value) {
  const magnitude = Math.abs(value), exponent = Math.max(-14, Math.floor(Math.log2(magnitude)));
  const steps = magnitude / 2 ** (exponent - 10), whole = Math.floor(steps), rest = steps - whole;
  const even = whole + (rest > 0.5 || (rest === 0.5 && whole % 2) ? 1 : 0); // 2048 of them carry into the exponent
  return (value < 0 ? 0x8000 : 0) | (magnitude < 65520 ? even + ((exponent + 14) << 10) : 0x7c00);
}
