// node serve.mjs [FOLDER] [PORT]: the page, and a model folder under /model/, for this computer only.
import { createReadStream } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const [folder = join(here, '../../demo/model'), port = '8000'] = process.argv.slice(2);
const TYPES = { '.html': 'text/html', '.mjs': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm' };
// With these two a browser gives the page memory that threads share, and ONNX Runtime uses several.
const ISOLATED = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };

/** The file that an address names, or null if there is none or it lies elsewhere. */
async function fileAt(url) {
  const path = decodeURIComponent(new URL(url, 'http://localhost').pathname), isModel = path.startsWith('/model/');
  const root = await realpath(isModel ? folder : here), name = isModel ? path.slice('/model'.length) : path;
  const file = await realpath(resolve(root, `.${name === '/' ? '/index.html' : name}`));
  return file.startsWith(root + sep) && (await stat(file)).isFile() ? file : null;
}

const server = createServer(async (request, response) => {
  const file = await fileAt(request.url).catch(() => null);
  const type = TYPES[extname(file ?? '')] ?? 'application/octet-stream';
  response.writeHead(file ? 200 : 404, { ...ISOLATED, 'Content-Type': type, 'Cache-Control': 'no-cache' });
  if (file) createReadStream(file).on('error', () => response.destroy()).pipe(response);
  else response.end();
});
server.on('error', (error) => {
  console.error(`Port ${port} cannot be served (${error.code}). Name another: node serve.mjs FOLDER PORT`);
  process.exitCode = 1;
});
server.listen(Number(port), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/`));
