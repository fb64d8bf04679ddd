// `npm run docs`: writes docs/schemes.md from the registry of schemes. A test compares; nobody edits it.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { MIXES } from "../core/schemes/mixes.ts";
import { BLOCK_SCHEME_IDS, BLOCK_SCHEMES, PART_SCHEMES, SCHEME_ALIASES } from "../core/schemes/registry.ts";

const FILE = path.resolve(import.meta.dirname, "../docs/schemes.md");

const NEEDS = { stream: "a block", row: "a row", tensor: "the tensor" } as const;

/** The document. */
export function renderSchemesDocument(): string {
  const blocks = BLOCK_SCHEME_IDS.map((id) => {
    const { title, needs, blockBytes, blockElements, source } = BLOCK_SCHEMES[id];
    const bits = ((8 * blockBytes) / blockElements).toFixed(2);
    return `| \`${id}\` | ${title} | ${bits} | ${NEEDS[needs]} | ${source} |`;
  });
  const parts = [...PART_SCHEMES.values()].map(({ id, title, needs, form, parts, source }) => {
    const names = parts({ rows: 128, columns: 128, dtype: "BF16" }).map(({ name }) => `\`${name}\``);
    const folder = form?.container === "compressed-tensors" ? form.format : (form?.container ?? "");
    return `| \`${id}\` | ${title} | ${NEEDS[needs]} | ${names.join(", ")} | ${folder} | ${source} |`;
  });
  const mixes = [...MIXES.keys()].filter((id) => !BLOCK_SCHEME_IDS.some((known) => known === id));
  const aliases = [...SCHEME_ALIASES].map(([alias, id]) => `\`${alias.toUpperCase()}\` is \`${id}\``);
  return `${[
    "# Quantization schemes",
    "",
    'Made by `npm run docs` from the registry; do not edit. "Sees" is what must be in memory at once to quantize.',
    "",
    "## Blocks, in GGUF files",
    "",
    "| scheme | stored | bits a weight | sees | source |",
    "|---|---|---|---|---|",
    ...blocks,
    "",
    `Mixes of them, as llama-quantize names them: ${mixes.map((id) => `\`${id}\``).join(", ")}.`,
    "",
    "## Parts, in safetensors files",
    "",
    "Those with a folder become one by `mergeyard quantize`: of compressed-tensors, named by its format, or of GPTQ,",
    "AWQ, bitsandbytes or HQQ, with the `quantization_config` that vLLM, transformers or the tool itself reads.",
    "Whoever wrote such a folder, it is read as the weights that it stands for, and can be merged. `outputs:` of a",
    "merge make the same folders in the pass that merges. Names are taken in any case.",
    "",
    "Schemes without a folder have golden cases and read back what they wrote, but no server reads their files: they",
    "are for whoever calls them as code.",
    "",
    "GPTQ needs modules whose rows are a multiple of 32, AWQ of 8, HQQ of 4. GPTQ's weights are rounded to the",
    "nearest, as AWQ's always are, unless `--hessian FILE` names a safetensors file with the sum of x x^T over the",
    "inputs of every quantized matrix, [columns, columns] under the matrix's name: then GPTQ's solver rounds a column",
    "after the other, and the rest of the row makes good what that did to the output. transformers 5 loads no HQQ",
    "folder; hqq itself, transformers 4 and vLLM (4 bits) do.",
    "",
    `Of llm-compressor's presets and llama-quantize's mixes, ${aliases.join(", ")}.`,
    "",
    "`mergeyard quantize --budget 6bpw --format compressed-tensors` gives every module the scheme that makes the whole",
    "lose least at that size: 4 and 8 bits of weights, or `unquantized`; `--candidates` names others. Embeddings",
    "and the head keep their dtype, and count. What vLLM makes one matrix of has one scheme. `--save-plan` writes",
    "the plan, `--bit-plan` follows one, edited or not.",
    "`mergeyard derive` makes packed integers of 6, 4 or 2 bits from any symmetric 8-bit ones, with a scale for the",
    "same groups (for a channel where the tensor has one). Group scales keep most. Of packed integers, vLLM serves",
    "those of 4 and 8 bits.",
    "",
    "| scheme | stored | sees | tensors | folder | source |",
    "|---|---|---|---|---|---|",
    ...parts,
  ].join("\n")}\n`;
}

if (import.meta.main) writeFileSync(FILE, renderSchemesDocument());
