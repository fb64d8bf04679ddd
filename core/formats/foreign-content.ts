// What a file really is when it is not what its name says: the first bytes of the things that people upload by
// mistake. Only asked once a parser has already refused, so a guess here never turns good input away.

export type ForeignContent = { readonly what: string; readonly hint: string };

type Signature = ForeignContent & { readonly start: string };

const CONVERT = "convert it to safetensors first, for example with the library that wrote it";

/** Starts as Latin-1 text, longest first where one begins with another. */
const SIGNATURES: readonly Signature[] = Object.freeze([
  {
    start: "version https://git-lfs",
    what: "a Git LFS pointer",
    hint: "the repository was cloned without its large files; run `git lfs pull` and upload again",
  },
  { start: "GGUF", what: "a GGUF file", hint: "name it *.gguf; GGUF is not accepted as a source of safetensors" },
  { start: "\x93NUMPY", what: "a numpy array", hint: CONVERT },
  { start: "PK\x03\x04", what: "a zip archive, as torch.save writes", hint: CONVERT },
  { start: "\x80\x02", what: "a Python pickle", hint: CONVERT },
  { start: "\x80\x03", what: "a Python pickle", hint: CONVERT },
  { start: "\x80\x04", what: "a Python pickle", hint: CONVERT },
  { start: "\x80\x05", what: "a Python pickle", hint: CONVERT },
  { start: "\x89HDF\r\n\x1a\n", what: "an HDF5 file", hint: CONVERT },
  { start: "\x1f\x8b", what: "a gzip file", hint: "unpack it first" },
  { start: "<!DOCTYPE", what: "an HTML page", hint: "the download returned an error page; fetch the file again" },
  { start: "<!doctype", what: "an HTML page", hint: "the download returned an error page; fetch the file again" },
  { start: "<html", what: "an HTML page", hint: "the download returned an error page; fetch the file again" },
  { start: "<?xml", what: "an XML document", hint: "the download returned an error page; fetch the file again" },
]);

/** What the first bytes of a file betray; undefined when they are none of the known mistakes. */
export function recogniseForeign(start: Uint8Array): ForeignContent | undefined {
  return SIGNATURES.find((signature) => startsWith(start, signature.start));
}

/** Bytes that isSafetensorsStart looks at: the header's length, and how it begins. */
export const SAFETENSORS_START_BYTES = 10;

/** True for the first bytes of a safetensors file, whatever its name. */
export function isSafetensorsStart(start: Uint8Array): boolean {
  return startsWith(start.subarray(8), '{"');
}

function startsWith(bytes: Uint8Array, text: string): boolean {
  if (bytes.length < text.length) return false;
  for (let index = 0; index < text.length; index += 1) {
    if (bytes[index] !== text.charCodeAt(index)) return false;
  }
  return true;
}
