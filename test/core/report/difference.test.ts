// Goal: the page of a diff says what diff found, finds room for what has no number, and stays one page whatever tensors
// are called.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type DrawnDiff, type DrawnDifference, renderDifference } from "../../../core/report/difference.ts";

const NONE: DrawnDiff = { equal: 0, onlyA: [], onlyB: [], shapes: [], changed: [] };

function changed(name: string, relative: number | null, more: Partial<DrawnDifference> = {}): DrawnDifference {
  return { name, dtypes: ["F32", "F32"], elements: 2000, changed: 1500, maxAbs: 0.25, relative, ...more };
}

function render(diff: Partial<DrawnDiff>, tensors: readonly string[] = []): string {
  const side = { name: "models/a", format: "safetensors", tensors };
  return renderDifference(side, { ...side, name: "models/b", format: "gguf" }, { ...NONE, ...diff });
}

/** The tensors of a page's table, in order. */
function listed(page: string): readonly string[] {
  return [...page.matchAll(/<tr><td><code>([^<]*)<\/code>/g)].map(([, name = ""]) => name);
}

test("the page names both checkpoints and their formats, and counts", () => {
  const page = render({
    equal: 7,
    onlyA: ["gone"],
    onlyB: ["new.0", "new.1"],
    shapes: [{ name: "cut", a: [2, 3], b: [6] }],
    changed: [changed("w", 0.5), changed("v", 0.1, { dtypes: ["F32", "BF16"] })],
  });
  assert.match(page, /A: <code>models\/a<\/code>, safetensors/);
  assert.match(page, /B: <code>models\/b<\/code>, gguf/);
  const counts = [...page.matchAll(/<tr><th>([^<]*)<\/th><td>(\d+)<\/td>/g)].map(([, title, count]) => [title, count]);
  assert.deepEqual(counts, [
    ["equal", "7"],
    ["different", "2"],
    ["of these, of another dtype", "1"],
    ["of another shape", "1"],
    ["only in A", "1"],
    ["only in B", "2"],
  ]);
  assert.match(page, /<code>cut<\/code><\/td><td>\[2,3\] and \[6\]<\/td>/);
  assert.match(page, /<code>new\.1<\/code><\/td><td>only in B<\/td>/);
});

test("the table has the numbers of the text, largest relative difference first", () => {
  const page = render({
    changed: [
      changed("small", 0.01),
      changed("ids", null, { changed: null, maxAbs: null }),
      changed("big", 0.123456, { dtypes: ["F32", "BF16"] }),
      changed("zero", null),
      changed("rounded", null, { changed: 0, maxAbs: 0, dtypes: ["F32", "F16"] }),
      changed("nan", 0, { maxAbs: 0 }),
    ],
  });
  assert.deepEqual(listed(page), ["zero", "nan", "big", "small", "rounded", "ids"]);
  assert.match(page, /big<\/code><\/td><td>F32 BF16<\/td><td>1,500 of 2,000<\/td><td>0\.250<\/td><td>0\.123<\/td>/);
  assert.match(page, /ids<\/code><\/td><td>F32<\/td><td>bytes<\/td><td><\/td><td><\/td>/);
});

test("long tables are cut, and say so", () => {
  const many = Array.from({ length: 45 }, (_, index) => changed(`w${index}`, index));
  const page = render({ changed: many });
  assert.equal(listed(page).length, 40);
  assert.equal(listed(page)[0], "w44");
  assert.match(page, /40 of 45\./);
});

test("the map shows every tensor of numbered layers, grey and in words where it has no number", () => {
  const name = (layer: number, module: string) => `model.layers.${layer}.${module}.weight`;
  const [equal, moved, most, cut, added] = [
    name(0, "up"),
    name(0, "down"),
    name(1, "up"),
    name(1, "down"),
    name(2, "up"),
  ];
  const page = render(
    {
      equal: 1,
      onlyB: [added],
      shapes: [{ name: cut, a: [2], b: [3] }],
      changed: [changed(moved, 0.1), changed(most, 0.4)],
    },
    [equal, moved, most, cut],
  );
  const cells = [...page.matchAll(/fill="(#\w+)"(?: fill-opacity="([\d.]+)")? stroke="#ddd"><title>([^<]*)</g)];
  assert.deepEqual(
    cells.map(([, fill, opacity, title]) => [fill, opacity, title]),
    [
      ["#b23a1e", "0.000", `${equal}: 0.00`],
      ["#b23a1e", "1.000", `${most}: 0.400`],
      ["#bbb", undefined, `${added}: only in B`],
      ["#b23a1e", "0.250", `${moved}: 0.100`],
      ["#bbb", undefined, `${cut}: [2] and [3]`],
    ],
  );
  assert.match(page, /White 0, darkest 0\.400/);
});

test("hostile names stay text, and the page needs neither network nor scripts", () => {
  const hostile = 'x.0.<script src="https://example.org/x.js">alert(1)</script>';
  const diff = { onlyA: [`${hostile}a`], onlyB: [`${hostile}b`], changed: [changed(hostile, 0.5)] };
  const side = { name: "<img onerror=x>", format: "safetensors", tensors: [hostile] };
  const page = renderDifference(side, { ...side, name: "a&b" }, { ...NONE, ...diff });
  assert.doesNotMatch(page, /<script|<img|<link|src="|href=|url\(|@import/);
  assert.match(page, /&#60;script src=&#34;/);
  assert.match(page, /<title>Differences of &#60;img onerror=x&#62; and a&#38;b<\/title>/);
  assert.doesNotMatch(render({ changed: [changed("w.0.x", 0.5)] }), /https?:/);
});

test("checkpoints that do not differ have a page that says so, without a map or a table of tensors", () => {
  const page = render({ equal: 2 }, ["model.layers.0.up.weight", "head"]);
  assert.match(page, /No tensor differs\./);
  assert.doesNotMatch(page, /<svg|<code>head|differ most|NaN|undefined/);
  assert.doesNotMatch(render({ changed: [changed("head", 0.5)] }, ["head"]), /No tensor differs|<svg/);
});
