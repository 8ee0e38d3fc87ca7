/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* An attack that fails shows something only when the same attack by the same kind of task succeeds where
 * there is no sandbox. For that the tests have a launcher of their own, clupy-launcher-off, with its own
 * clupy-sandbox-off: compiled with this macro, never installed. In every other program the constant is
 * false, and what it guards is not there: no configuration, argument or variable brings it back. */
#ifdef CLUPY_TEST_SANDBOX_OFF
enum { SANDBOX_IS_OFF = 1 };
#define SANDBOX_PROGRAM "clupy-sandbox-off"
#else
enum { SANDBOX_IS_OFF = 0 };
#define SANDBOX_PROGRAM "clupy-sandbox"
#endif
