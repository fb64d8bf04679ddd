// Keeps the house in order: the import law, sizes, banned words, dead code, the error table, dependencies, documents.
// Works on the text of the files that git tracks. Every violation names the file, the rule and the fix.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import test from "node:test";
import * as z from "zod";
import { ERROR_CODES } from "../core/error.ts";
import { METHOD_IDS } from "../core/methods/registry.ts";
import { renderErrorsDocument } from "../tools/errors-doc.ts";
import { findLoops, judgeImport } from "./tidy/imports.ts";
import { exportsOf, functionsOf, importsOf, lineOf, ROOT, readSource, readText, trackedPaths } from "./tidy/source.ts";
import { BANNED_NAMES, BANNED_WORDS, WORKPLACE } from "./tidy/words.ts";

const FILE_LINES_MAX = 500;
const FUNCTION_LINES_MAX = 70;
const LINE_LENGTH_MAX = 120;

const paths = trackedPaths();
const sources = paths.filter((name) => /\.(?:ts|mjs)$/.test(name) && !/(?:^|\/)assembly\//.test(name)).map(readSource);
const documents = paths.filter((name) => name.endsWith(".md"));
const isTest = (name: string) => name.startsWith("test/");

function assertNone(violations: readonly string[]): void {
  assert.equal(violations.length, 0, `\n${violations.join("\n")}\n`);
}

test("imports obey the law of docs/architecture.md", () => {
  assertNone(
    sources.flatMap((file) =>
      importsOf(file).flatMap(({ specifier, line }) => {
        const problem = judgeImport(file.path, specifier);
        return problem === undefined ? [] : [`${file.path}:${line}: ${problem}`];
      }),
    ),
  );
});

test("imports name their file with .ts and nothing imports what does not exist", () => {
  const violations: string[] = [];
  for (const file of sources) {
    for (const { specifier, line } of importsOf(file)) {
      if (!specifier.startsWith(".")) continue;
      const target = path.posix.join(path.posix.dirname(file.path), specifier);
      if (!existsSync(path.join(ROOT, target))) violations.push(`${file.path}:${line}: no such file: ${target}`);
    }
  }
  assertNone(violations);
});

test("no file imports itself by way of others", () => {
  const imported = new Map(
    sources.map((file) => [
      file.path,
      importsOf(file)
        .filter(({ specifier }) => specifier.startsWith("."))
        .map(({ specifier }) => path.posix.join(path.posix.dirname(file.path), specifier)),
    ]),
  );
  assertNone(
    findLoops(imported).map((loop) => `${loop.join(" -> ")}: move what two of them share to the one that imports none`),
  );
});

test("files, functions and lines are short", () => {
  const violations: string[] = [];
  for (const file of sources) {
    const lines = file.text.split("\n");
    if (lines.length - 1 > FILE_LINES_MAX) {
      violations.push(`${file.path}: ${lines.length - 1} lines, at most ${FILE_LINES_MAX}: split it by what it does`);
    }
    lines.forEach((line, index) => {
      if (line.length > LINE_LENGTH_MAX) {
        violations.push(
          `${file.path}:${index + 1}: ${line.length} characters, at most ${LINE_LENGTH_MAX}: break the line`,
        );
      }
    });
    for (const { line, lines: count, body } of functionsOf(file)) {
      // A suite that holds tests is a list, not a function.
      if (count > FUNCTION_LINES_MAX && !(isTest(file.path) && /\b(?:test|it|describe)\(/.test(body))) {
        violations.push(`${file.path}:${line}: function of ${count} lines, at most ${FUNCTION_LINES_MAX}: split it`);
      }
    }
  }
  assertNone(violations);
});

test("banned words do not appear", () => {
  const violations: string[] = [];
  for (const file of sources) {
    if (file.path === "test/tidy/words.ts") continue;
    for (const word of BANNED_WORDS) {
      if (word.allowed?.some((prefix) => file.path.startsWith(prefix))) continue;
      const text = word.in === "code" ? file.code : file.text;
      const at = text.search(word.pattern);
      if (at !== -1) violations.push(`${file.path}:${lineOf(text, at)}: ${word.name}: write ${word.instead}`);
    }
  }
  assertNone(violations);
});

test("no file or folder has a name that says nothing", () => {
  assertNone(
    paths
      .filter((name) => !name.startsWith("test/golden/") && BANNED_NAMES.test(name))
      .map((name) => `${name}: rename it after what it holds, or move it to its only caller`),
  );
});

test("nothing mentions the workplace it was made in", () => {
  const violations: string[] = [];
  for (const name of paths) {
    if (!/\.(?:ts|mjs|md|json|ya?ml|txt)$|^\.ci\//.test(name) || name === "package-lock.json") continue;
    const text = readText(name);
    for (const pattern of WORKPLACE) {
      const found = pattern.exec(text);
      if (found !== null)
        violations.push(`${name}:${lineOf(text, found.index)}: says ${found[0]}: use the product's words`);
    }
  }
  assertNone(violations);
});

test("every file is used by the product, or is an entry", () => {
  // A string with the path counts as a use: workers and child processes are started by path.
  const entry = /^(?:tools|infra|functions|test)\/|^cli\/mergeyard\.mjs$|\.d\.ts$/;
  const used = new Set<string>();
  for (const file of sources) {
    for (const match of file.text.matchAll(/["'`]([\w./-]+\.(?:ts|mjs))["'`]/g)) {
      const written = match[1] ?? "";
      if (isTest(file.path)) continue;
      for (const target of [written, path.posix.join(path.posix.dirname(file.path), written)]) {
        if (target !== file.path) used.add(target);
      }
    }
  }
  assertNone(
    sources
      .filter((file) => !entry.test(file.path) && !used.has(file.path) && !AWAITED.has(file.path))
      .map((file) => `${file.path}: nothing but tests imports it: delete it, or use it`),
  );
});

/**
 * Made for tests alone, or built before the first user, which a later change brings.
 */
const AWAITED: ReadonlySet<string> = new Set(["stores/faulty.ts"]);

test("every exported name is used in another file", () => {
  const words = new Map(sources.map((file) => [file.path, new Set(file.code.match(/\w+/g) ?? [])]));
  assertNone(
    sources.flatMap((file) =>
      exportsOf(file)
        // A type may stand for the signature of an exported function beside it.
        .filter(({ name, isType }) => !isType || file.code.split(new RegExp(`\\b${name}\\b`)).length <= 2)
        .filter(({ name }) => !sources.some((other) => other.path !== file.path && words.get(other.path)?.has(name)))
        .map(
          ({ name, line }) => `${file.path}:${line}: export ${name} is used nowhere else: remove export or the thing`,
        ),
    ),
  );
});

test("every error code is thrown somewhere and provoked by a test", () => {
  const quoted = (inTests: boolean) =>
    new Set(
      sources
        .filter((file) => isTest(file.path) === inTests && !file.path.startsWith("core/error-codes/"))
        .flatMap((file) => file.text.match(/(?<=["'`])[A-Z][A-Za-z0-9]+(?=["'`])/g) ?? []),
    );
  const [thrown, tested] = [quoted(false), quoted(true)];
  const golden = paths
    .filter((name) => /^test\/golden\/.*\.json$/.test(name))
    .map(readText)
    .join("\n");
  assertNone(
    Object.keys(ERROR_CODES).flatMap((code) => [
      ...(thrown.has(code) ? [] : [`core/error-codes: ${code} is thrown nowhere: remove it`]),
      ...(tested.has(code) || golden.includes(`"${code}"`)
        ? []
        : [`core/error-codes: no test provokes ${code}: add one`]),
    ]),
  );
});

test("every merge method has a golden case", () => {
  const casesSchema = z.looseObject({ cases: z.array(z.looseObject({})) });
  const cases = paths
    .filter((name) => /^test\/golden\/.*cases\.json$/.test(name))
    .flatMap((name) => casesSchema.safeParse(JSON.parse(readText(name))).data?.cases ?? []);
  const text = JSON.stringify(cases);
  assertNone(
    METHOD_IDS.filter((id) => !new RegExp(`"(?:method|merge_method)":"${id}"|merge_method: ${id}\\b`).test(text)).map(
      (id) => `core/methods/${id}.ts: no case of test/golden merges with it: add one made by an independent program`,
    ),
  );
});

test("dependencies are pinned exactly and each has its line in docs/adr/0001-dependencies.md", () => {
  const schema = z.looseObject({
    dependencies: z.record(z.string(), z.string()),
    devDependencies: z.record(z.string(), z.string()),
  });
  const manifest = schema.parse(JSON.parse(readText("package.json")));
  const reasons = readText("docs/adr/0001-dependencies.md");
  const all = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies });
  assertNone([
    ...all
      .filter(([, version]) => !/^\d+\.\d+\.\d+$/.test(version))
      .map(([name, version]) => `package.json: ${name} is ${version}: pin one exact version`),
    ...all
      .filter(([name]) => !reasons.includes(`| \`${name}\` |`))
      .map(([name]) => `docs/adr/0001-dependencies.md: no line for ${name}: say why, and what would replace it`),
  ]);
  const named = [...reasons.matchAll(/^\| `([^`]+)` \|/gm)].map((match) => match[1]);
  assert.deepEqual(named.sort(), all.map(([name]) => name).sort(), "docs/adr/0001-dependencies.md lists what is gone");
});

test("links in documents point to files that exist", () => {
  const violations: string[] = [];
  for (const name of documents) {
    const text = readText(name);
    for (const match of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      const target = (match[1] ?? "").split("#")[0] ?? "";
      if (target === "" || /^[a-z]+:/.test(target)) continue;
      if (!existsSync(path.join(ROOT, path.dirname(name), target))) {
        violations.push(`${name}:${lineOf(text, match.index)}: link to ${target}: no such file`);
      }
    }
  }
  assertNone(violations);
});

test("change notes open with their kind", () => {
  assertNone(
    documents
      .filter((name) => name.startsWith("docs/changes/unreleased/"))
      .filter((name) => !/^kind: (?:added|changed|fixed)\n+\S/.test(readText(name)))
      .map((name) => `${name}: first line \`kind: added|changed|fixed\`, then one or two sentences`),
  );
});

test("type casts and the test floor only move one way", () => {
  const ratchet = z.strictObject({ casts: z.int() }).parse(JSON.parse(readText("test/tidy/ratchet.json")));
  const casts = sources
    .filter((file) => !isTest(file.path))
    .reduce(
      (sum, file) => sum + (file.code.match(/\bas (?!const\b)[A-Za-z{(]/g)?.length ?? 0) - importAliases(file.code),
      0,
    );
  assert.ok(casts <= ratchet.casts, `${casts} casts with \`as\`, at most ${ratchet.casts}: prove the type instead`);
  const history = execFileSync("git", ["log", "-p", "--format=", "--", "test/floor.json"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  const floors = [...history.matchAll(/^\+.*"tests":\s*(\d+)/gm)].map((match) => Number(match[1]));
  const floor = z
    .strictObject({ tests: z.int() })
    .parse(JSON.parse(readFileSync(path.join(ROOT, "test/floor.json"), "utf8")));
  assert.ok(floor.tests >= Math.max(0, ...floors), "test/floor.json may only go up");
});

function importAliases(code: string): number {
  return [...code.matchAll(/\b(?:import|export)\b[^;]*?\bfrom\b/g)].reduce(
    (sum, match) => sum + (match[0].match(/\bas\b/g)?.length ?? 0),
    0,
  );
}

test("docs/errors.md says what the table of codes says", () => {
  assert.ok(readText("docs/errors.md") === renderErrorsDocument(), "the table has changed: run `npm run docs`");
});
