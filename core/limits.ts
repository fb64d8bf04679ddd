// Every bound on what a file, folder or recipe may claim, one group per part. Each says its unit, its reason and what
// happens when it is wrong: too low refuses honest input (raise it), too high lets hostile input cost memory or time.
// Bounds on our own resources (windows, threads, memory) are not here: they belong to the plan.

/** The bounded JSON scanner (`core/formats/json-scan.ts`). */
export const JSON_LIMITS = Object.freeze({
  /**
   * Levels of nesting. The safetensors reference (serde_json) stops at 128, and no document of ours nests deeper than
   * 6. Too high: recursion exhausts the stack.
   */
  depth: 128,
  /** Characters of one string. Chat templates and licences in configs reach 100 000. Too high: costs memory only. */
  stringCharacters: 16_000_000,
});

/** One safetensors file. */
export const SAFETENSORS_LIMITS = Object.freeze({
  /**
   * Bytes of the JSON header: the reference's own bound, so that both refuse the same files. It is compared with the
   * file's size before anything is allocated. Too high: a forged length costs that much memory.
   */
  headerBytes: 100_000_000,
  /** Tensors in one file. The largest published models hold under 200 000 in all shards. Too high: 1 KB each. */
  tensors: 1_000_000,
  /** Axes of one tensor; torch allows 64. Too high: costs time in every loop over axes. */
  rank: 64,
  /** Characters of a tensor's name. Real names stay under 200. Too high: error texts and manifests swell. */
  nameCharacters: 1024,
  /** Entries of `__metadata__`. Real files hold 1 to 20. Too high: costs memory, and every entry is kept. */
  metadataEntries: 10_000,
});

/** A checkpoint's folder and the small documents in it. */
export const FOLDER_LIMITS = Object.freeze({
  /**
   * Files under the folder, nested ones included. The largest training checkpoints (ranks x states) hold some 50 000.
   * Too high: naming a whole bucket by mistake lists all of it.
   */
  files: 200_000,
  /** Tensors of all files together. Real models hold under 200 000. Too high: costs memory, 1 KB each. */
  tensors: 2_000_000,
  /** Bytes of a file's name. Local file systems allow 255. Too high: the name cannot be written when it is pulled. */
  nameBytes: 255,
  /** Bytes of `model.safetensors.index.json`; 200 000 tensors need 20 MB. Too high: costs memory, four times this. */
  indexBytes: 100_000_000,
  /** Bytes of `config.json`. Real ones stay under 1 MB, vocabularies of labels included. Too high: costs memory. */
  configBytes: 16_000_000,
});

/** `universal.json` and `manifest.json`. */
export const ARTIFACT_LIMITS = Object.freeze({
  /** Bytes of `universal.json` or `manifest.json`; a tensor takes about 300. Too high: costs memory, ten times this. */
  documentBytes: 100_000_000,
  /** Characters of a recipe's text inside a manifest. Real recipes stay under 100 000. */
  recipeCharacters: 4_000_000,
  /** Signatures of one version. Keys change once a year or so. Too high: each is checked against each trusted key. */
  signatures: 64,
  /** Bytes of a version's signature file: statements hold the recipe's text. Too high: memory, four times this. */
  signatureBytes: 33_554_432,
});

/** Keys of objects, in every store. */
export const KEY_LIMITS = Object.freeze({
  /** UTF-8 bytes of a whole key: S3's own bound. Too high: S3 refuses the object. */
  keyBytes: 1024,
  /** UTF-8 bytes between two slashes: what file systems allow. Too high: an S3 yard cannot be copied into a folder. */
  segmentBytes: 255,
});

/** What every store promises and asks, so that a plan that works in a folder works in S3. */
export const STORE_LIMITS = Object.freeze({
  /** Bytes of an object that `create` or `replace` writes from memory. Manifests reach tens of MB. */
  conditionalBytes: 134_217_728,
  /** Bytes of the smallest region but the last of a large object: S3's smallest multipart part. */
  regionBytesMin: 5_242_880,
  /** Regions of one large object. With 9,000 parts by size this stays under S3's 10,000 parts. */
  regions: 1000,
});

/** A recipe file, in YAML. */
export const RECIPE_LIMITS = Object.freeze({
  /** Bytes of the file. The longest recipes in the wild, with a setting for each layer, stay under 100 000. */
  bytes: 1_048_576,
  /** Values that aliases may stand for, all together; a recipe repeats a list a few times. Too high: alias bombs. */
  aliases: 100,
  /** Levels of nesting; the grammar has 9. Too high: recursion exhausts the stack. */
  depth: 32,
  /** Documents in one file. */
  documents: 100,
  /** Models of one slice. Too high: memory for windows, which the plan refuses anyway. */
  models: 1000,
  /** Slices of a layer stack: a model of that many layers does not exist. */
  slices: 10_000,
  /** Largest layer number. */
  layers: 1_000_000,
  /** Points of a gradient, or entries of a filtered list. Too high: every entry is tried on every tensor's name. */
  settingItems: 1000,
  /** Characters of a document's name. Too high: it stands in stages' names and in tables. */
  nameCharacters: 128,
  /** Characters of a name, path or reference. */
  textCharacters: 4096,
  /** Prompts of one expert, and characters of one: what they are made of is planned token by token. */
  prompts: 1000,
  promptCharacters: 65_536,
  /** Characters of a chat template. Real ones reach 30 000. */
  templateCharacters: 1_000_000,
  /** Unknown keys that are ignored with a warning before the file is refused: each costs one more parse. */
  ignoredKeys: 100,
});

/** `tokenizer.json` and the small documents beside a model that the planner reads. */
export const TOKENIZER_LIMITS = Object.freeze({
  /** Bytes of one document. The largest vocabularies in use take 35 MB. Too high: costs memory, ten times this. */
  bytes: 100_000_000,
  /**
   * Largest id of a token. Real vocabularies stay under 300 000. Too high: an embedding of that many rows is planned.
   */
  tokens: 4_000_000,
  /**
   * Of a tokenizer that encodes text: characters of an added token, and of all; real ones stay under 50 and 50 000. Too
   * high: each is looked for at every character, and costs memory a hundred times itself.
   */
  addedTokenCharacters: 1000,
  addedTokensCharacters: 1_000_000,
  /** Characters that a step puts into the text at one place; real ones put one. Too high: memory, for every space. */
  insertedCharacters: 100,
  /** Normalizers, and pre-tokenizers; real ones are under ten. */
  steps: 32,
});

/** A plan file. */
export const PLAN_LIMITS = Object.freeze({
  /** Bytes of `plan.jsonl`. 100 000 tensors of three models take 100 MB. Too high: costs memory, three times this. */
  bytes: 500_000_000,
  /** Tensors of the output, copies of layers included. */
  tensors: 1_000_000,
  /** Rows of an embedding that routers are means of, all together. Each takes some 10 bytes of the plan, and a read. */
  promptRows: 2_000_000,
});

/** Records of a yard. */
export const YARD_LIMITS = Object.freeze({
  /** Earlier versions that a channel remembers, newest first. Too low: rolling back cannot reach as far. */
  channelHistory: 100,
  /** Events that a job's record keeps, each at most 2 KB. Too low: a dead job's last words do not say why. */
  jobEvents: 20,
});

/** A zip archive, as torch.save writes it. */
export const ZIP_LIMITS = Object.freeze({
  /** Entries of one archive. The largest torch files hold some 100 000 storages. Too high: costs memory, 300 B each. */
  entries: 1_000_000,
  /** Bytes of the directory; an entry takes about 70. Too high: costs memory, four times this. */
  directoryBytes: 67_108_864,
});

/** One pickle: `data.pkl` of a torch file, or `.metadata` of a distributed checkpoint. */
export const PICKLE_LIMITS = Object.freeze({
  /** Bytes. 200 000 tensors take 40 MB. Too high: costs memory, ten times this at worst. */
  bytes: 134_217_728,
  /** Opcodes. A tensor takes about 30, one of a distributed checkpoint 95. Too high: costs seconds. */
  opcodes: 32_000_000,
  /**
   * Objects and texts that it makes. A tensor takes about 6, one of a distributed checkpoint 34, and its moments as
   * much again: this is one of 40 000 parameters in training. Too high: costs memory, 150 bytes each.
   */
  objects: 8_000_000,
  /** Levels of nesting; training states nest to 12. Too high: walking the result exhausts the stack. */
  depth: 500,
  /** Values, shared ones counted wherever they are reached. Too high: walking them all takes minutes. */
  nodes: 20_000_000,
  /** Bytes of one integer; random states hold some of 2 500. Too high: arithmetic on it is quadratic. */
  integerBytes: 16_384,
});

/** Tensors of a torch file. */
export const TORCH_LIMITS = Object.freeze({
  /** Elements of one tensor: 2^48, a petabyte in float32. Too high: sizes are no exact numbers any more. */
  elements: 281_474_976_710_656,
  /**
   * Runs of bytes that one tensor may be gathered from. Views that are cut by rows need as many as rows; a transposed
   * matrix needs one for every element, and is refused. Too high: costs memory and one read each.
   */
  runs: 16_384,
  /** Bytes that are read before it is known how long the pickles of a legacy file are. */
  legacyWindowBytes: 1_048_576,
});

/** Patterns of parameter names, from a checkpoint or its user. */
export const PATTERN_LIMITS = Object.freeze({
  /** Characters of one pattern. Real ones stay under 100. Too high: matching costs length times length of the name. */
  characters: 512,
  /** States of a pattern's machine; counts multiply them. Too high: matching costs as many times the name's length. */
  states: 10_000,
  /** Patterns of one list. Real lists hold under 100. Too high: each is tried on every name. */
  patterns: 10_000,
});

/** Checkpoints of many ranks. */
export const RANK_LIMITS = Object.freeze({
  /** Files of ranks that are read at the same time; each holds its pickle while it is parsed. */
  readsInFlight: 8,
  /** Bytes of small text files (`latest`). Too high: costs memory. */
  textBytes: 4096,
  /** Chunks of one tensor in a distributed checkpoint. Real grids stay under 10 000. Too high: seconds of comparing. */
  chunks: 65_536,
});

/** One GGUF file. */
export const GGUF_LIMITS = Object.freeze({
  /** Bytes of the header. Vocabularies of 300 000 tokens with their merges take 15 MB. Too high: costs that memory. */
  headerBytes: 268_435_456,
  /** Tensors of one file; real ones hold under 5 000. Too high: 1 KB each. */
  tensors: 1_000_000,
  /** Metadata entries; real files hold under 100. Too high: costs memory. */
  entries: 65_536,
  /** Items of one array; the largest vocabularies have 300 000 tokens. Too high: 100 bytes each. */
  arrayItems: 8_000_000,
  /** Bytes of one string; chat templates reach 100 000. Too high: costs memory. */
  stringBytes: 16_777_216,
  /** Arrays inside of arrays; none is known in use. Too high: recursion. */
  depth: 4,
  /** Axes of a tensor: ggml's own bound. */
  rank: 4,
  /** Bytes of a tensor's name that ggml reads: 64 with the zero at the end. */
  nameBytes: 63,
  /** Largest alignment of tensor data. Real files have 32 or 64. Too high: padding fills the disk. */
  alignment: 1_048_576,
});

/** One importance matrix. */
export const IMATRIX_LIMITS = Object.freeze({
  /** Bytes of the file; of the largest dense models it has 30 MB. Too high: costs that memory. */
  bytes: 268_435_456,
  /** Matrices of one file. Real ones stay under 2 000. */
  entries: 100_000,
  /** Bytes of a matrix's name. */
  nameBytes: 1024,
});
