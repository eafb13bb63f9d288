// llama.cpp (node-llama-cpp's prebuilt library) loads what we wrote, makes the same tokens of a text,
// and finds the same next tokens with the same probabilities.
// Environment: PENNYWEIGHT, SOURCE_DIR, INTEROP_DIR (with node_modules).
import {execFileSync} from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import {fileURLToPath, pathToFileURL} from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const sourceDir = process.env.SOURCE_DIR ?? path.resolve(here, "../..");
const pennyweightBinary =
    process.env.PENNYWEIGHT ?? path.join(sourceDir, "build/release/pennyweight");
const interopDir = process.env.INTEROP_DIR ?? path.join(sourceDir, "build/interop/npm");
const shared = path.resolve(sourceDir, "../shared");
// llama.cpp multiplies blocks with activations that it rounds to 8 bits; f16 weights with f16 ones.
const kBlockTolerance = 3e-2;
const kPlainTolerance = 5e-3;
const kTop = 5;

const kTexts = [
  "Once upon a time, there was a little girl named Lily.",
  "  Two spaces, a\ttab\nand 12345 numbers: na\u00efve caf\u00e9 \u2014 \u65e5\u672c.",
  "He said: \"I don't know\", and went away; <s> is no token here",
];

let passed = 0;
let failed = 0;

function check(ok, what) {
  ok ? ++passed : ++failed;
  console.log((ok ? "ok      " : "FAILED  ") + what);
  return ok;
}

function pennyweight(...args) {
  const text = execFileSync(pennyweightBinary, [...args, "--json"],
                            {encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "pipe"]});
  return JSON.parse(text).result;
}

function findModels(names) {
  const found = [];
  for (const name of names) {
    const candidates = [path.join(shared, "models", name)];
    if (name === "pd-llama-4M") candidates.push(path.join(sourceDir, "testdata", name));
    const folder = candidates.find((candidate) => fs.existsSync(path.join(candidate, "config.json")));
    if (folder) found.push({name, folder});
    else console.log(`SKIPPED ${name}: ${candidates[0]} is absent`);
  }
  return found;
}

// Probabilities of all tokens after `ids`, by llama.cpp: a Map, highest first.
async function nextTokens(model, ids) {
  const context = await model.createContext({contextSize: 128, batchSize: 128, threads: 1});
  try {
    // The defaults cut the tail off and share its probability out among the rest.
    const options = {temperature: 1, topK: 0, topP: 1, minP: 0};
    const last = {generateNext: {probabilities: true, options}};
    const input = ids.map((id, i) => i + 1 === ids.length ? [id, last] : id);
    const results = await context.getSequence().controlledEvaluate(input);
    return results[ids.length - 1].next.probabilities;
  } finally {
    await context.dispose();
  }
}

function sameIds(a, b) {
  return a.length === b.length && a.every((id, i) => id === b[i]);
}

async function checkText(what, model, file, text, tolerance) {
  const ours = pennyweight("eval", file, "--prompt", text, "--generate", "1");
  const theirs = Array.from(model.tokenize(text, false));
  const bos = model.tokens.shouldPrependBosToken ? [model.tokens.bos] : [];
  if (!check(sameIds(ours.prompt_ids, [...bos, ...theirs]),
             `${what}: ${ours.prompt_ids.length} ids of ${JSON.stringify(text.slice(0, 16))}`)) {
    console.log("  ours   " + ours.prompt_ids.join(" "));
    console.log("  theirs " + [...bos, ...theirs].join(" "));
    return;
  }
  const probabilities = await nextTokens(model, ours.prompt_ids);
  const top = ours.top.slice(0, kTop);
  let farthest = 0;
  for (const {id, probability} of top) {
    farthest = Math.max(farthest, Math.abs(probability - (probabilities.get(id) ?? 0)));
  }
  // And the other way round: nothing that they rank high is missing from our list.
  const listed = new Map(ours.top.map(({id, probability}) => [id, probability]));
  for (const [id, probability] of Array.from(probabilities).slice(0, kTop)) {
    farthest = Math.max(farthest, Math.abs(probability - (listed.get(id) ?? 0)));
  }
  check(top.length === kTop && farthest < tolerance,
        `${what}: the top ${kTop} next tokens agree within ${farthest.toExponential(1)}`);
  const [best, second] = Array.from(probabilities);
  if (best[1] - second[1] > tolerance) {
    // A continuation ends before the end-of-text token.
    const greedy = ours.ids.length > 0 ? ours.ids[0] : model.tokens.eos;
    check(greedy === best[0], `${what}: the same greedy token`);
  }
}

async function checkModel(llama, folder, name, type, flags, temp) {
  const file = path.join(temp, "m.gguf");
  pennyweight("quantize", folder, "-o", file, "--type", type, "--force", ...flags);
  await checkFile(llama, [name, type, ...flags].join(" "), file, kBlockTolerance);
}

async function checkSplit(llama, folder, name, temp) {
  const file = path.join(temp, "whole.gguf");
  pennyweight("convert", folder, "-o", file, "--force");
  const size = String(Math.ceil(fs.statSync(file).size / 3));
  const {files} = pennyweight("split", file, "-o", path.join(temp, name), "--shard-size", size);
  check(files.length > 2, `${name}: split into ${files.length} files`);
  await checkFile(llama, `${name} in parts`, files[0].file, kPlainTolerance);
}

async function checkFile(llama, what, file, tolerance) {
  const model = await llama.loadModel({modelPath: file, gpuLayers: 0, useMmap: false});
  try {
    check(true, `${what}: llama.cpp loads it`);
    for (const text of kTexts) await checkText(what, model, file, text, tolerance);
  } finally {
    await model.dispose();
  }
}

async function main() {
  const entry = path.join(interopDir, "node_modules/node-llama-cpp/dist/index.js");
  const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);
  const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error});
  const temp = fs.mkdtempSync(path.join(os.tmpdir(), "pennyweight_interop_"));
  const runs = [["q4_k_m", "--method", "rtn"], ["q8_0", "--method", "rtn"],
                ["q4_0", "--method", "rtn"], ["q4_k_m"]];
  try {
    const names = ["pd-llama-4M", "stories260K", "pd-qwen2-4M", "pd-mixtral-4M"];
    for (const {name, folder} of findModels(names)) {
      for (const [type, ...flags] of runs) {
        if (name === "pd-mixtral-4M" && flags.length === 0) continue;
        try {
          await checkModel(llama, folder, name, type, flags, temp);
        } catch (error) {
          check(false, `${name} ${type} ${flags.join(" ")}: ${error.message} ${error.stdout ?? ""}`);
        }
      }
      try {
        await checkSplit(llama, folder, name, temp);
      } catch (error) {
        check(false, `${name} in parts: ${error.message} ${error.stdout ?? ""}`);
      }
    }
  } finally {
    fs.rmSync(temp, {recursive: true, force: true});
  }
  await llama.dispose();
  console.log(`${passed} checks passed, ${failed} checks failed`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
}

await main();
