// What takes the place of the options of mergekit-yaml, mergekit-multi and mergekit-moe here, for those who bring their
// command line: said where one of them is refused. Options that have the same name and meaning are not listed. Called
// by main.ts.

const NO_GPU = "leave it out: merging runs on the processors, and --memory bounds what it takes";
const NO_CODE = "leave it out: no code of a checkpoint is ever run, and pickles are read without being run";
const PATHS = "leave it out, and say where a model lies with --model NAME=PATH, or under `models` of a pipeline";
const IN_FLOAT32 =
  "leave it out: gates from hidden states are computed in float32, and weights are read as they are needed";
const DOCUMENTS = "leave it out: results that other documents use are made anew, and go when the output is whole";
const SIDE_FILES = "leave it out: the tokenizer's files and the model card are always written";

const HINTS: Readonly<Record<string, string>> = {
  "--allow-crimes":
    "leave it out: any models merge whose tensors match; where their configs differ write `config_source` in the " +
    "recipe, where tensors do `allow_unlisted` or `on_mismatch`",
  "--async-write": "leave it out: reading, computing and writing always overlap",
  "--clone-tensors": "leave it out: a layer may occur several times in the output",
  "--copy-tokenizer": SIDE_FILES,
  "--cuda": NO_GPU,
  "--device": NO_GPU,
  "--gpu-rich": NO_GPU,
  "--i-understand-this-is-not-useful-without-training": "leave it out: experts of one model are merged, with a warning",
  "--intermediate-dir": DOCUMENTS,
  "--lazy": DOCUMENTS,
  "--lazy-unpickle": NO_CODE,
  "--load-in-4bit": IN_FLOAT32,
  "--load-in-8bit": IN_FLOAT32,
  "--lora-merge-cache": "leave it out: an adapter is merged while its model is read, and nothing is stored in between",
  "--lora-merge-dtype": "leave it out: adapters are added in float32 and rounded once, to the weight's dtype",
  "--low-cpu-memory": NO_GPU,
  "--multi-gpu": NO_GPU,
  "--no-copy-tokenizer": SIDE_FILES,
  "--no-safe-serialization": "leave it out, and write torch files with `mergeyard convert OUT --to torch --out DIR`",
  "--no-write-model-card": SIDE_FILES,
  "--num-threads": "write --threads N",
  "--out-path": "write --out DIR",
  "--out-shard-size": "write --shard-size BYTES, such as 5G: the size counts in bytes here",
  "--quiet": "leave it out: with --json nothing but the result is printed",
  "--random-seed": "write `random_seed: N` in the recipe, which the output's manifest keeps",
  "--read-to-gpu": NO_GPU,
  "--safe-serialization": "leave it out: the output is always safetensors",
  "--transformers-cache": PATHS,
  "--trust-remote-code": NO_CODE,
  "--verbose": "leave it out: warnings and progress are always shown",
  "--write-model-card": SIDE_FILES,
  "--write-threads": "leave it out: reading, computing and writing always overlap",
  "-I": DOCUMENTS,
  "-j": "write --threads N",
  "-v": "leave it out: warnings and progress are always shown",
};

/** What to write instead of an option that mergekit has, or of one that turns it off; undefined for any other. */
export function mergekitHint(option: string): string | undefined {
  const known = [option, option.replace(/^--no-/, "--")].find((name) => Object.hasOwn(HINTS, name));
  return known === undefined ? undefined : HINTS[known];
}
