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
    // HQQ's modules hold their settings as tensors too.
    const shown = names.length > 6 ? [...names.slice(0, 3), `${names.length - 3} settings`] : names;
    const folder = form?.container === "compressed-tensors" ? form.format : (form?.container ?? "");
    return `| \`${id}\` | ${title} | ${NEEDS[needs]} | ${shown.join(", ")} | ${folder} | ${source} |`;
  });
  const mixes = [...MIXES.keys()].filter((id) => !BLOCK_SCHEME_IDS.some((known) => known === id));
  const aliases = [...SCHEME_ALIASES].map(([alias, id]) => `\`${alias.toUpperCase()}\` is \`${id}\``);
  return `${[
    "# Quantization schemes",
    "",
    "Made by `npm run docs` from the registry; do not edit. [quantizing.md](quantizing.md) says how they are used.",
    '"Sees" is what must be in memory at once to quantize.',
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
    "AWQ, bitsandbytes or HQQ, with the `quantization_config` that vLLM, transformers or the tool itself reads. Those",
    "without have golden cases and read back what they wrote, but no server reads their files: they are for whoever",
    "calls them as code. GPTQ needs modules whose rows are a multiple of 32, AWQ of 8, HQQ of 4.",
    "",
    `Names of other tools that \`--scheme\` takes: ${aliases.join(", ")}.`,
    "",
    "| scheme | stored | sees | tensors | folder | source |",
    "|---|---|---|---|---|---|",
    ...parts,
  ].join("\n")}\n`;
}

if (import.meta.main) writeFileSync(FILE, renderSchemesDocument());
