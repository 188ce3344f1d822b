// The page: pictures that are dropped or chosen, a question, and the answer as it comes.
import { openUrl, readPicture } from './web.mjs';

const find = (selector) => document.querySelector(selector);
const [form, drop, chooser, list] = [find('form'), find('.drop'), find('[type=file]'), find('ul')];
const [answer, error, status, button] = [find('#answer'), find('#error'), find('#status'), find('.row button')];
const { question, folder, provider } = form.elements;
let pictures = [], opened = { key: null, model: null }, running = false, stopped = false;

if (!navigator.gpu) provider.options[1].disabled = true;

/** The model that the form names; the one that is open stays open until the form names another. */
async function model() {
  const { href: url } = new URL(`${folder.value.replace(/\/+$/, '')}/`, location.href), key = `${provider.value} ${url}`;
  if (opened.key !== key) opened = { key, model: await openUrl(url, provider.value, say) };
  return opened.model;
}

function say(text) { status.textContent = text; }

function fail(failure) {
  error.textContent = String(failure.message ?? failure).split('\n')[0];
  error.scrollIntoView({ block: 'nearest' });
}

async function addPictures(files) {
  error.textContent = '';
  for (const file of files) {
    try {
      pictures.push({ file, pixels: await readPicture(file) });
    } catch (failure) {
      fail(failure);
    }
  }
  showPictures();
}

function showPictures() {
  list.replaceChildren(...pictures.map((picture) => {
    const item = document.createElement('li'), image = new Image(), remove = document.createElement('button');
    picture.url ??= URL.createObjectURL(picture.file);
    Object.assign(image, { src: picture.url, alt: picture.file.name });
    Object.assign(remove, { type: 'button', textContent: '×', ariaLabel: `Remove ${picture.file.name}` });
    remove.addEventListener('click', () => {
      pictures = pictures.filter((other) => other !== picture);
      URL.revokeObjectURL(picture.url);
      showPictures();
      chooser.focus();
    });
    item.append(image, remove);
    return item;
  }));
  form.classList.toggle('filled', pictures.length > 0);
}

async function ask() {
  [running, stopped, button.textContent] = [true, false, 'Stop'];
  [answer.textContent, error.textContent] = ['', ''];
  answer.ariaBusy = true; // read aloud once it is whole
  try {
    if (!pictures.length && !question.value) throw new Error('There is nothing to ask about. Drop a picture or type a question.');
    const host = await model(), begun = performance.now();
    say(pictures.length ? 'Looking …' : 'Reading …');
    let tokens = 0;
    await painted();
    const pixels = pictures.map((picture) => picture.pixels);
    for await (const { text } of host.answer(pixels, question.value || question.placeholder)) {
      tokens++;
      answer.append(text);
      answer.scrollIntoView({ block: 'nearest' });
      say('Answering …');
      await painted();
      if (stopped) break;
    }
    say(`${tokens} tokens in ${((performance.now() - begun) / 1000).toFixed(1)} seconds${stopped ? ', stopped' : ''}`);
  } catch (failure) {
    say('');
    fail(failure);
  }
  answer.ariaBusy = false;
  [running, button.textContent] = [false, 'Ask'];
}

/** The graphs run on the page's own thread, so the browser paints and hears clicks only when it is given a turn. */
function painted() { return new Promise((resolve) => setTimeout(resolve)); }

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (running) stopped = true;
  else ask();
});
chooser.addEventListener('change', () => {
  addPictures([...chooser.files]);
  chooser.value = ''; // or the same picture could not be chosen again
});
for (const name of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle('over', name === 'dragover');
    if (name === 'drop') addPictures(event.dataTransfer.files);
  });
}
