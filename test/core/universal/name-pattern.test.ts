// Patterns of names: the subset agrees with JavaScript's own engine, everything else is refused, and no pattern is
// slow.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import fc from "fast-check";
import { PATTERN_LIMITS } from "../../../core/limits.ts";
import { compilePattern } from "../../../core/universal/name-pattern.ts";

suite("patterns of names", () => {
  test("are anchored at the start only", () => {
    const pattern = compilePattern(String.raw`model\.layers\.\d+\.norm\.weight`);
    assert.ok(pattern.matches("model.layers.12.norm.weight"));
    assert.ok(pattern.matches("model.layers.12.norm.weight_extra"));
    assert.ok(!pattern.matches("x.model.layers.12.norm.weight"));
    assert.ok(!compilePattern("a$").matches("ab"));
    assert.ok(compilePattern("^a$").matches("a"));
    assert.ok(compilePattern("").matches("anything"));
  });

  test("agree with the engine of the language on random patterns and names", () => {
    const atom = fc.constantFrom(
      "a",
      "b",
      ".",
      "\\.",
      "\\d",
      "[ab]",
      "[^a]",
      "[a-b1]",
      "(a|b)",
      "(?:ab)",
      "(a*b)",
      "$",
      "^",
    );
    const item = fc
      .tuple(atom, fc.constantFrom("", "", "*", "+", "?", "*?", "??", "{2}", "{0,1}", "{1,3}?", "{2,}", "{0}"))
      .map(([a, b]) => ("$^".includes(a) ? a : a + b));
    const body = fc.array(item, { minLength: 1, maxLength: 6 }).map((items) => items.join(""));
    const ahead = fc.constantFrom("", "", "(?!a)", "^(?=.*b$)", "(?!.*(?:a|1))^(?=b|ab)", "(?!)", "^(?=)");
    const branch = fc.tuple(ahead, body).map((parts) => parts.join(""));
    const pattern = fc.array(branch, { minLength: 1, maxLength: 3 }).map((branches) => branches.join("|"));
    const name = fc.string({ unit: fc.constantFrom("a", "b", "1", "."), maxLength: 8 });
    fc.assert(
      fc.property(pattern, name, (text, candidate) => {
        assert.equal(compilePattern(text).matches(candidate), new RegExp(`^(?:${text})`, "u").test(candidate));
      }),
      { numRuns: 4000 },
    );
  });

  test("take no longer than their length times the name's, whatever they nest", () => {
    const pattern = compilePattern(`${"(".repeat(20)}a${"*)".repeat(20)}${".*".repeat(20)}x$`);
    assert.ok(!pattern.matches("a".repeat(1000)));
  });

  test("stay right when names bring more characters than a pattern keeps", () => {
    const pattern = compilePattern("x[^a]+b$");
    for (let code = 0x4e00; code < 0x6e00; code += 1) {
      const character = String.fromCodePoint(code);
      assert.ok(pattern.matches(`x${character}b`));
      assert.ok(!pattern.matches(`x${character}a`));
    }
  });

  test("say by look-aheads what a name must not hold, as lists of modules do", () => {
    const pattern = compilePattern(String.raw`^(?!.*(?:lm_head|visual)).*(?:mlp|self_attn)\.[a-z]{1,6}_proj$`);
    assert.ok(pattern.matches("model.layers.0.mlp.gate_proj"));
    assert.ok(!pattern.matches("visual.layers.0.mlp.gate_proj"));
    assert.ok(!pattern.matches("model.layers.0.mlp.longest_proj"));
    // Python also takes a count without its lower end, which JavaScript does not.
    assert.ok(compilePattern("a{,2}b").matches("aab"));
    assert.ok(!compilePattern("a{,2}b").matches("aaab"));
  });

  test("outside of the subset are refused, not translated", () => {
    const wrong = [
      "(",
      ")",
      "a)",
      "[",
      "[]",
      "*",
      "a**",
      "a+??",
      "a{2}{3}",
      "a{2,1}",
      "a{",
      "a{}",
      "a{,}",
      "a{b}",
      "{2}",
      "a(?=b)",
      "((?!a)b)",
      "(?=a)*",
      "(?!a",
      "(?<!a)b",
      "((((a{99}){99}){99}){99}){99}",
      "(?P<n>a)",
      "\\1",
      "\\b",
      "\\",
      "[b-a]",
    ];
    for (const text of [...wrong, "a".repeat(PATTERN_LIMITS.characters + 1)]) {
      assert.throws(() => compilePattern(text), { code: "UniversalPatternInvalid" }, text.slice(0, 20));
    }
  });
});
