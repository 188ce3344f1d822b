// node node.mjs FOLDER IMAGE... "question"
import { openFolder, readPicture } from './disk.mjs';

const [folder, ...files] = process.argv.slice(2), question = files.pop();
try {
  if (!question) throw new Error('Usage: node node.mjs FOLDER IMAGE... "question"');
  const images = await Promise.all(files.map(readPicture)), model = await openFolder(folder);
  for await (const { text } of model.answer(images, question)) process.stdout.write(text);
  process.stdout.write('\n');
} catch (error) {
  console.error(error.message.split('\n')[0]);
  process.exitCode = 1;
}
