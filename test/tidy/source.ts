// Reads the repository as text for test/tidy.test.ts: the tracked files, each with its comments and strings blanked,
// its imports, its exports and the spans of its functions. A small scanner, not a parser: it knows just enough
// TypeScript for the rules, and every rule that uses it is on the safe side where it could be fooled.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";

export const ROOT = path.resolve(import.meta.dirname, "../..");

export type SourceFile = {
  /** Relative to the repository, with `/`. */
  readonly path: string;
  readonly text: string;
  /** `text` with what is in comments, strings, templates and regular expressions blanked; same length and lines. */
  readonly code: string;
};

/** Paths that git knows and that still exist, sorted: a file in work that nobody added yet is not judged. */
export function trackedPaths(): string[] {
  const listed = execFileSync("git", ["ls-files", "-z"], { cwd: ROOT, encoding: "utf8", maxBuffer: 2 ** 26 });
  return listed.split("\0").filter((name) => name !== "" && existsSync(path.join(ROOT, name)));
}

export function readText(name: string): string {
  return readFileSync(path.join(ROOT, name), "utf8");
}

export function readSource(name: string): SourceFile {
  const text = readText(name);
  return { path: name, text, code: blankText(text) };
}

/** 1-based line of an offset. */
export function lineOf(text: string, offset: number): number {
  return text.slice(0, offset).split("\n").length;
}

const REGEX_MAY_FOLLOW = /(?:[(,=:[!&|?{};+\-*%<>~^]|\b(?:return|typeof|case|of|in|do|else|void|await|yield))\s*$/;

/** Replaces what is inside comments, strings, templates and regular expressions by spaces; keeps length and lines. */
function blankText(text: string): string {
  const out = text.split("");
  const templateDepths: number[] = [];
  let depth = 0;
  let at = 0;
  const blankTo = (end: number) => {
    for (; at < end && at < text.length; at += 1) if (out[at] !== "\n") out[at] = " ";
  };
  while (at < text.length) {
    const char = text[at];
    const two = text.slice(at, at + 2);
    if (two === "//") blankTo(endOf(text, "\n", at));
    else if (two === "/*") blankTo(endOf(text, "*/", at + 2) + 2);
    else if (char === '"' || char === "'") blankTo(endOfQuoted(text, at));
    else if (char === "/" && REGEX_MAY_FOLLOW.test(lastCode(out, at))) blankTo(endOfRegex(text, at));
    else if (char === "`" || (char === "}" && templateDepths.at(-1) === depth)) {
      if (char === "}") templateDepths.pop();
      const end = endOfTemplatePart(text, at + 1);
      const opens = text[end - 1] === "{";
      blankTo(end);
      if (opens) templateDepths.push(depth);
    } else {
      if (char === "{") depth += 1;
      if (char === "}") depth -= 1;
      at += 1;
    }
  }
  return out.join("");
}

function lastCode(out: readonly string[], at: number): string {
  return out.slice(Math.max(0, at - 40), at).join("") || ";";
}

function endOf(text: string, mark: string, from: number): number {
  const end = text.indexOf(mark, from);
  return end === -1 ? text.length : end;
}

function endOfQuoted(text: string, start: number): number {
  const quote = text[start];
  let at = start + 1;
  while (at < text.length && text[at] !== quote && text[at] !== "\n") at += text[at] === "\\" ? 2 : 1;
  return at + 1;
}

function endOfRegex(text: string, start: number): number {
  let inClass = false;
  let at = start + 1;
  for (; at < text.length && text[at] !== "\n"; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "[") inClass = true;
    else if (text[at] === "]") inClass = false;
    else if (text[at] === "/" && !inClass) return at + 1;
  }
  return at;
}

/** From inside a template to just after its closing backquote or its next `${`. */
function endOfTemplatePart(text: string, start: number): number {
  let at = start;
  while (at < text.length && text[at] !== "`") {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "$" && text[at + 1] === "{") return at + 2;
    at += 1;
  }
  return at + 1;
}

/** Specifiers of imports of all kinds, re-exports, and of sources named by `new URL("…", import.meta.url)`. */
export function importsOf(file: SourceFile): { specifier: string; line: number }[] {
  const found: { specifier: string; line: number }[] = [];
  const pattern =
    /\b(?:import|export)\b([^"';]*?)\bfrom\s*"([^"]+)"|\bimport\s*\(?\s*"([^"]+)"|\bnew URL\(\s*"([^"]+)"/g;
  for (const match of file.text.matchAll(pattern)) {
    // A match that starts inside a comment or a string is blanked in `code`.
    if (file.code[match.index] === " ") continue;
    const line = lineOf(file.text, match.index);
    const url = match[4];
    // A URL may name any file; only another source is an import.
    if (url === undefined) found.push({ specifier: match[2] ?? match[3] ?? "", line });
    else if (/\.(?:ts|mjs)$/.test(url)) found.push({ specifier: url.startsWith(".") ? url : `./${url}`, line });
  }
  return found;
}

/** Names a file exports with a declaration. */
export function exportsOf(file: SourceFile): { name: string; line: number; isType: boolean }[] {
  const pattern = /^export (?:async )?(const|let|function\*?|class|type|interface) (\w+)/gm;
  return [...file.code.matchAll(pattern)].map((match) => ({
    name: match[2] ?? "",
    isType: match[1] === "type" || match[1] === "interface",
    line: lineOf(file.code, match.index),
  }));
}

export type FunctionSpan = { readonly line: number; readonly lines: number; readonly body: string };

/** Every `{ … }` that is a function's body: after `=>`, or after a parameter list and its optional return type. */
export function functionsOf(file: SourceFile): FunctionSpan[] {
  const spans: FunctionSpan[] = [];
  const { code } = file;
  for (let open = code.indexOf("{"); open !== -1; open = code.indexOf("{", open + 1)) {
    if (!opensFunction(code, open)) continue;
    const close = matchForward(code, open);
    const line = lineOf(code, open);
    spans.push({ line, lines: lineOf(code, close) - line + 1, body: code.slice(open, close) });
  }
  return spans;
}

function opensFunction(code: string, open: number): boolean {
  let at = skipSpaceBack(code, open - 1);
  if (code[at] === ">" && code[at - 1] === "=") return true;
  if (code[at] !== ")") at = skipReturnType(code, at);
  if (code[at] !== ")") return false;
  const parameters = matchBack(code, at);
  return !/\b(?:if|for|while|switch|catch|with|await)\s*$/.test(code.slice(Math.max(0, parameters - 12), parameters));
}

/** From the last character of `): Type` back to the `)`; anything else yields a place that is no `)`. */
function skipReturnType(code: string, from: number): number {
  let at = from;
  while (at > 0 && code[at] !== ":") {
    const char = code[at] ?? "";
    if (">]}".includes(char)) at = matchBack(code, at) - 1;
    else if (/[\w\s|&.,"$]/.test(char)) at -= 1;
    else return from;
  }
  return skipSpaceBack(code, at - 1);
}

function skipSpaceBack(code: string, from: number): number {
  let at = from;
  while (at > 0 && /\s/.test(code[at] ?? "")) at -= 1;
  return at;
}

const CLOSING: Readonly<Record<string, string>> = { "{": "}", "(": ")", "[": "]", "<": ">" };

function matchForward(code: string, open: number): number {
  let depth = 0;
  for (let at = open; at < code.length; at += 1) {
    if (code[at] === "{") depth += 1;
    else if (code[at] === "}" && --depth === 0) return at;
  }
  return code.length;
}

function matchBack(code: string, close: number): number {
  const closing = code[close] ?? "";
  const opening = Object.keys(CLOSING).find((key) => CLOSING[key] === closing);
  let depth = 0;
  for (let at = close; at > 0; at -= 1) {
    if (code[at] === closing && !(closing === ">" && code[at - 1] === "=")) depth += 1;
    else if (code[at] === opening && --depth === 0) return at;
  }
  return 0;
}
