import { expect, test } from 'vitest';
import { strftime } from './strftime.ts';

// What Python's datetime.strftime gives for these moments.
const morning = new Date(2026, 2, 7, 9, 5, 2);
const night = new Date(2024, 11, 31, 0, 45, 59);

test.each([
  ['%d %b %Y', '07 Mar 2026', '31 Dec 2024'],
  ['%A, %B %-d, %Y', 'Saturday, March 7, 2026', 'Tuesday, December 31, 2024'],
  ['%Y-%m-%dT%H:%M:%S', '2026-03-07T09:05:02', '2024-12-31T00:45:59'],
  ['%I:%M %p %a %y %j %e %w 100%%', '09:05 AM Sat 26 066  7 6 100%', '12:45 AM Tue 24 366 31 2 100%'],
])('%s', (format, expectedMorning, expectedNight) => {
  expect(strftime(morning, format)).toBe(expectedMorning);
  expect(strftime(night, format)).toBe(expectedNight);
});
