import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseSchedule } from "../../../core/recipe/schedule.ts";
import { refusal } from "../../refusal.ts";

const WHERE = { file: "p.yaml", field: "on.schedule", line: 3 };
const at = (text: string) => Date.parse(`${text}Z`);

/** The times of a day that are due, as `HH:MM`; the day is looked at minute by minute. */
function dueOn(schedule: string, day: string): string[] {
  const parsed = parseSchedule(schedule, WHERE);
  const start = at(`${day}T00:00:00`);
  return Array.from({ length: 1440 }, (_, minute) => start + minute * 60_000)
    .filter((timeMs) => parsed.latestDue(timeMs - 60_000, timeMs) === timeMs)
    .map((timeMs) => new Date(timeMs).toISOString().slice(11, 16));
}

test("cron is due at the times that a calendar says", () => {
  // 2026-11-24 is a Tuesday, 2026-11-28 a Saturday, 2026-11-30 a Monday and the month's last day.
  const cases: readonly [string, string, readonly string[]][] = [
    ["cron(0 2 * * ? *)", "2026-11-24", ["02:00"]],
    ["cron(15,45 1-3/2 * * ? *)", "2026-11-24", ["01:15", "01:45", "03:15", "03:45"]],
    ["cron(0 0/8 * * ? *)", "2026-11-24", ["00:00", "08:00", "16:00"]],
    ["cron(50/5 23 * * ? *)", "2026-11-24", ["23:50", "23:55"]],
    ["cron(0 22-1 * * ? *)", "2026-11-24", ["00:00", "01:00", "22:00", "23:00"]],
    ["cron(0 2 ? * TUE *)", "2026-11-24", ["02:00"]],
    ["cron(0 2 ? * mon-fri *)", "2026-11-28", []],
    ["cron(0 2 ? * 7 *)", "2026-11-28", ["02:00"]],
    ["cron(0 2 ? * FRI-MON *)", "2026-11-24", []],
    ["cron(0 2 ? * L *)", "2026-11-28", ["02:00"]],
    ["cron(0 2 ? * 3L *)", "2026-11-24", ["02:00"]],
    ["cron(0 2 ? * 3L *)", "2026-11-17", []],
    ["cron(0 2 ? * TUE#4 *)", "2026-11-24", ["02:00"]],
    ["cron(0 2 ? * 3#3 *)", "2026-11-24", []],
    ["cron(0 2 L * ? *)", "2026-11-30", ["02:00"]],
    ["cron(0 2 L * ? *)", "2024-02-29", ["02:00"]],
    ["cron(0 2 L * ? *)", "2026-02-27", []],
    ["cron(0 2 28W * ? *)", "2026-11-27", ["02:00"]],
    ["cron(0 2 29W * ? *)", "2026-11-30", ["02:00"]],
    ["cron(0 2 1W * ? *)", "2026-08-03", ["02:00"]],
    ["cron(0 2 31W * ? *)", "2026-11-30", []],
    ["cron(0 2 31W * ? *)", "2027-01-29", ["02:00"]],
    ["cron(0 2 24 NOV ? 2026)", "2026-11-24", ["02:00"]],
    ["cron(0 2 24 11 ? 2027-2199)", "2026-11-24", []],
    ["rate(8 hours)", "2026-11-24", ["00:00", "08:00", "16:00"]],
    ["rate(1 day)", "2026-11-24", ["00:00"]],
    ["at(2026-11-24T17:05:30)", "2026-11-24", ["17:05"]],
    ["at(2026-11-25T17:05:00)", "2026-11-24", []],
  ];
  for (const [schedule, day, expected] of cases) assert.deepEqual(dueOn(schedule, day), expected, `${schedule} ${day}`);
});

test("of several due times the latest counts, and none before the last look", () => {
  const hourly = parseSchedule("cron(0 * * * ? *)", WHERE);
  assert.equal(hourly.latestDue(at("2026-11-24T00:00:00"), at("2026-11-24T05:59:59")), at("2026-11-24T05:00:00"));
  assert.equal(hourly.latestDue(at("2026-11-24T05:00:00"), at("2026-11-24T05:59:59")), undefined);
  assert.equal(hourly.latestDue(at("2026-11-24T04:59:59"), at("2026-11-24T05:00:00")), at("2026-11-24T05:00:00"));
  // A watch that stood still for a month looks back a day, not a month.
  const once = parseSchedule("cron(0 2 3 11 ? 2026)", WHERE);
  const asleep = at("2026-11-01T00:00:00");
  assert.equal(once.latestDue(asleep, at("2026-11-24T00:00:00")), undefined);
  assert.equal(once.latestDue(asleep, at("2026-11-04T01:59:00")), at("2026-11-03T02:00:00"));
  assert.equal(once.latestDue(asleep, at("2026-11-04T02:00:00")), undefined);
});

test("a watch that looks every few minutes sees every due time once, however its looks are placed", () => {
  const schedules = ["cron(0/7 1-4 * * ? *)", "rate(11 minutes)", "at(2026-11-24T01:59:59)"];
  const start = at("2026-11-24T00:00:00");
  fc.assert(
    fc.property(
      fc.constantFrom(...schedules),
      fc.array(fc.integer({ min: 1, max: 60_000 }), { minLength: 200, maxLength: 200 }),
      (text, steps) => {
        const schedule = parseSchedule(text, WHERE);
        const seen: number[] = [];
        let looked = start;
        for (const step of steps) {
          const due = schedule.latestDue(looked, looked + step);
          if (due !== undefined) seen.push(due);
          looked += step;
        }
        const all: number[] = [];
        for (let timeMs = start + 60_000; timeMs <= looked; timeMs += 60_000) {
          if (schedule.latestDue(timeMs - 60_000, timeMs) === timeMs) all.push(timeMs);
        }
        assert.deepEqual(seen, all);
      },
    ),
    { numRuns: 50 },
  );
});

test("what is no schedule is refused with its place", () => {
  const wrong = [
    "",
    "0 2 * * *",
    "cron(0 2 * * *)",
    "cron(0 2 * * * *)",
    "cron(0 2 ? * ? *)",
    "cron(60 2 * * ? *)",
    "cron(0 24 * * ? *)",
    "cron(0 2 0 * ? *)",
    "cron(0 2 32W * ? *)",
    "cron(0 2 ? * 8 *)",
    "cron(0 2 ? * MON#6 *)",
    "cron(0 2 ? * XL *)",
    "cron(0/0 2 * * ? *)",
    "cron(-1 2 * * ? *)",
    "cron(1- 2 * * ? *)",
    "cron(,1 2 * * ? *)",
    "cron(0 2 * * ? 1969)",
    "cron(0 2 * FOO ? *)",
    "cron(0 2 * JANUARY ? *)",
    "rate(0 minutes)",
    "rate(1 week)",
    "rate(1.5 hours)",
    "at(tomorrow)",
    "at(2026-13-01T00:00:00)",
    "daily(2)",
  ];
  for (const text of wrong) {
    assert.throws(
      () => parseSchedule(text, WHERE),
      refusal({ code: "RecipeScheduleInvalid", found: text, line: 3 }),
      text,
    );
  }
});
