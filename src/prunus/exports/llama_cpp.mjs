// Runs llama.cpp for prunus: one request a line on standard input, one answer a line on standard output.
// Arguments: node-llama-cpp's entry file, a GGUF file, threads, tokens of context.
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [library, path, threads, contextSize] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(library));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: Number(contextSize), threads: Number(threads)});
const sequence = context.getSequence();
console.log(JSON.stringify({ready: true}));
for await (const line of createInterface({input: process.stdin})) {
    const {ids, count, text} = JSON.parse(line);
    if (text !== undefined) {
        console.log(JSON.stringify({ids: model.tokenize(text)}));
        continue;
    }
    await sequence.clearHistory();
    const found = [], seconds = [];
    let last = performance.now();
    for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        const now = performance.now();
        seconds.push((now - last) / 1000);
        last = now;
        found.push(token);
        if (found.length >= count) break;
    }
    console.log(JSON.stringify({ids: found, seconds}));
}
process.exit(0);
