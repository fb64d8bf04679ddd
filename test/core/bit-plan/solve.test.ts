// The integer program against every plan there is, on programs small enough to try them all.
import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { type Choice, type ChoiceGroup, convexHull, undominated } from "../../../core/bit-plan/choices.ts";
import { priceAt, traceFrontier } from "../../../core/bit-plan/frontier.ts";
import { solveBitPlan } from "../../../core/bit-plan/solve.ts";

const choice = (bytes: number, loss: number): Choice => ({ scheme: `${bytes}`, bytes, loss });
const groupsOf = (...groups: readonly (readonly Choice[])[]): readonly ChoiceGroup[] =>
  groups.map((choices, index) => ({ tensors: [`t${index}`], choices }));

const randomGroups = fc
  .array(
    fc.array(fc.record({ bytes: fc.integer({ min: 1, max: 40 }), loss: fc.integer({ min: 0, max: 90 }) }), {
      minLength: 1,
      maxLength: 5,
    }),
    {
      minLength: 1,
      maxLength: 6,
    },
  )
  .map((groups) => groupsOf(...groups.map((choices) => choices.map(({ bytes, loss }) => choice(bytes, loss)))));

/** Least loss within the budget, by trying everything. */
function leastLoss(groups: readonly ChoiceGroup[], budget: number): number | undefined {
  let sums = [{ bytes: 0, loss: 0 }];
  for (const { choices } of groups) {
    sums = sums.flatMap((sum) =>
      choices.map(({ bytes, loss }) => ({ bytes: sum.bytes + bytes, loss: sum.loss + loss })),
    );
  }
  const fitting = sums.filter(({ bytes }) => bytes <= budget).map(({ loss }) => loss);
  return fitting.length === 0 ? undefined : Math.min(...fitting);
}

test("the plan is the best of all plans within the budget", () => {
  fc.assert(
    fc.property(randomGroups, fc.integer({ min: 1, max: 200 }), (groups, budget) => {
      const solution = solveBitPlan(groups, budget);
      assert.equal(solution?.loss, leastLoss(groups, budget));
      if (solution === undefined) return;
      assert.ok(solution.isOptimal && solution.gap === 0 && solution.bytes <= budget);
      for (const [index, { choices }] of groups.entries())
        assert.ok(choices.includes(solution.choices[index] ?? choice(0, 0)));
    }),
    { numRuns: 500 },
  );
});

test("every point of the frontier is the best plan of its size", () => {
  fc.assert(
    fc.property(randomGroups, (groups) => {
      const frontier = traceFrontier(groups);
      for (const [index, { bytes, loss, price }] of frontier.entries()) {
        assert.equal(loss, leastLoss(groups, bytes));
        assert.ok(index === 0 || price <= (frontier[index - 1]?.price ?? 0));
      }
    }),
  );
});

test("a model of a thousand matrices is planned exactly", () => {
  const sizes = [1, 4, 3.5, 3.5, 14];
  const bits = [2.6, 3.4, 4.5, 5.5, 6.6, 8.5];
  const groups = groupsOf(
    ...Array.from({ length: 1000 }, (_, index) => {
      const size = (sizes[index % sizes.length] ?? 1) * 2 ** 20;
      const hardness = 1 + ((index * 7919) % 101) / 10;
      return bits.map((bit) => choice(Math.round((size * bit) / 8), hardness * 4 ** -bit));
    }),
  );
  const elements = groups.reduce((sum, { choices }) => sum + ((choices[0]?.bytes ?? 0) * 8) / 2.6, 0);
  const budget = Math.floor((elements * 4.5) / 8);
  const solution = solveBitPlan(groups, budget);
  assert.ok(solution?.isOptimal && solution.bytes <= budget && solution.bytes > 0.999 * budget);
});

test("a budget below the smallest model has no plan; one above the largest takes the best of everything", () => {
  const groups = groupsOf([choice(2, 9), choice(4, 1)], [choice(3, 5), choice(9, 5)]);
  assert.equal(solveBitPlan(groups, 4), undefined);
  assert.deepEqual(solveBitPlan(groups, 100)?.choices, [choice(4, 1), choice(3, 5)]);
  assert.equal(priceAt(traceFrontier(groups), 100), 0);
  assert.equal(priceAt(traceFrontier(groups), 5), 4);
});

test("dominated choices and those above the hull are left out, equal ones but for the first", () => {
  const choices = [choice(4, 4), choice(1, 10), choice(2, 9), choice(3, 2), choice(3, 2), choice(5, 1)];
  assert.deepEqual(undominated(choices), [choice(1, 10), choice(2, 9), choice(3, 2), choice(5, 1)]);
  assert.deepEqual(convexHull(choices), [choice(1, 10), choice(3, 2), choice(5, 1)]);
});
