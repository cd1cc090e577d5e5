#!/usr/bin/env node
// program.mjs SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME - a program in JavaScript, for Node.
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const [server, documentSetId, apiToken, outputFilename] = process.argv.slice(2);
if (!outputFilename || !apiToken) {
  console.error('usage: program.mjs SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME');
  process.exit(2);
}
for (let done = 1; done <= 3; done++) {
  await sleep(100);
  console.log(`${done}/3\tpage ${done} of ${server}`);
}
writeFileSync(outputFilename, JSON.stringify({ documentSetId, pages: 3 }));
