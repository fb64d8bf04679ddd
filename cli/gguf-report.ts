// What `inspect` says of a GGUF file: its metadata, tensor types, tensors and sizes, as data and as text.
import type { GgufTensor } from "../core/formats/gguf/gguf.ts";
import type { GgufValue } from "../core/formats/gguf/type-codes.ts";
import { sumOf } from "../core/sum-of.ts";
import { elementCount } from "../core/tensor.ts";
import type { StoredGguf } from "../steps/open-gguf.ts";
import { formatBytes, formatCount, renderTable } from "./text.ts";

/** Characters of one metadata value in the table. Longer ones, such as chat templates, are cut. */
const VALUE_CHARACTERS = 60;

/** For --json: everything but the items of long arrays. */
export function describeGgufAsData(source: string, { name, fileBytes, header }: StoredGguf) {
  const { metadata, alignment, tensors } = header;
  return {
    source,
    format: "gguf",
    files: [{ name, bytes: fileBytes }],
    alignment,
    tensorCount: tensors.length,
    elements: sumOf(tensors, ({ shape }) => elementCount(shape)),
    bytes: sumOf(tensors, ({ bytes }) => bytes),
    types: summariseTypes(tensors),
    metadata: Object.fromEntries([...metadata].map(([key, value]) => [key, valueAsData(value)])),
    tensors: tensors.map((tensor) => ({ ...tensor, type: tensor.type.name })),
  };
}

/** For people. */
export function describeGgufAsText(source: string, { fileBytes, header }: StoredGguf): string {
  const { metadata, tensors } = header;
  const elements = sumOf(tensors, ({ shape }) => elementCount(shape));
  const bits = (8 * sumOf(tensors, ({ bytes }) => bytes)) / Math.max(1, elements);
  return [
    source,
    `  format        gguf, 1 file, ${formatBytes(fileBytes)}`,
    `  tensors       ${formatCount(tensors.length)}, ${formatCount(elements)} elements, ${bits.toFixed(2)} bits each`,
    "",
    renderTable(
      [
        { title: "metadata", align: "left" },
        { title: "value", align: "left" },
      ],
      [...metadata].map(([key, value]) => [key, valueAsText(value)]),
    ),
    "",
    renderTable(
      [
        { title: "type", align: "left" },
        { title: "tensors", align: "right" },
        { title: "bytes", align: "right" },
      ],
      Object.entries(summariseTypes(tensors)).map(([type, { count, bytes }]) => [
        type,
        formatCount(count),
        formatBytes(bytes),
      ]),
    ),
    "",
    renderTable(
      [
        { title: "tensor", align: "left" },
        { title: "type", align: "left" },
        { title: "shape", align: "left" },
      ],
      tensors.map(({ name, type, shape }) => [name, type.name, shape.join(" x ")]),
    ),
  ].join("\n");
}

function summariseTypes(tensors: readonly GgufTensor[]) {
  return Object.fromEntries(
    [...Map.groupBy(tensors, ({ type }) => type.name)].map(([type, members]) => [
      type,
      { count: members.length, bytes: sumOf(members, ({ bytes }) => bytes) },
    ]),
  );
}

function valueAsData(value: GgufValue): unknown {
  if (value.kind === "array") return { element: value.element, count: value.values.length };
  return typeof value.value === "bigint" ? String(value.value) : value.value;
}

function valueAsText(value: GgufValue): string {
  if (value.kind === "array") return `${formatCount(value.values.length)} x ${value.element}`;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a file's text must not steer the terminal.
  const text = String(value.value).replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, " ");
  return text.length > VALUE_CHARACTERS ? `${text.slice(0, VALUE_CHARACTERS)}...` : text;
}
