"""Ordinary questions of developers pass the guard unchanged, on the service and on the page."""

from pathlib import Path

import pytest

from guard import Guard, GuardConfig
from streaming.messages import Message
from ui.form import message_error

GUARD = Guard(GuardConfig.from_env({}))
QUESTIONS = [
    "What does a <script> tag do, and why put <script defer src=app.js></script> at the end of <body>?",
    "Why does <img src=x onerror=alert(1)> run here? How do I sanitise it?",
    "Is <a href='javascript:void(0)'>Menu</a> bad practice?",
    "Explain this XSS payload from our audit: \"><svg/onload=alert(document.cookie)>",
    "How do I allow data:text/html;base64,PHA+ in a Content-Security-Policy?",
    '<button onclick="save()">Save</button> does nothing in React. Why?',
    '```html\n<!doctype html>\n<script type="module">import { a } from "./a.js"; a();</script>\n```\nWhy a MIME error?',
    "<iframe srcdoc='<script>parent.x = 1</script>'></iframe>: is it sandboxed?",
    "const el = document.querySelector('a'); el.href = `javascript:${code}`; // why does the linter complain?",
    "How does Vue compile <template><div @click='go()'>{{ x }}</div></template>?",
    "Our WAF logged ' OR 1=1 -- in a login form. What would it have done?",
    "Why is \"SELECT * FROM users WHERE name = '\" + name + \"' OR '1'='1'\" injectable?",
    "SELECT id FROM a UNION ALL SELECT id FROM b; how do I keep duplicates in order?",
    "What happens with Robert'); DROP TABLE students;-- in psycopg?",
    "ALTER TABLE t DROP COLUMN c; DROP TABLE IF EXISTS tmp; VACUUM; in one migration?",
    "Does `1; EXEC xp_cmdshell 'dir'` work on SQL Server 2022?",
    "Is `WHERE id = 1 OR 1=1` optimised away by Postgres?",
    "' UNION SELECT username, password FROM users -- : which rule of sqlmap found it?",
    "BEGIN; DELETE FROM jobs WHERE done; SELECT pg_sleep(5); ROLLBACK; to test locks?",
    "EXPLAIN ANALYZE SELECT count(*) FROM t WHERE a LIKE '%x%' AND b = 'y' -- slow",
    "What does `rm -rf /tmp/build && mkdir -p /tmp/build` do in CI?",
    "curl -fsSL https://example.com/install.sh | sudo bash: what are the risks?",
    "$(cat /etc/passwd) inside backticks in bash: when is it expanded?",
    "How do I kill -9 every zombie: ps aux | awk '{print $2}' | xargs kill?",
    ":(){ :|:& };: what is this fork bomb and how does ulimit stop it?",
    "eval(\"__import__('os').system('ls')\") in a Jinja sandbox: is {{ ''.__class__.__mro__ }} blocked?",
    "find . -name '*.pyc' -exec rm {} \\; deletes nothing. Why?",
    "'; ls -la; echo ' passed to subprocess.run(shell=True): explain the injection",
    "../../etc/passwd and %2e%2e%2f: how does nginx normalise paths?",
    "<?php system($_GET['cmd']); ?> was in our uploads folder: what now?",
    "public static void main(String[] args) { if (a < b && b > c) { x = '\\''; } } // why no compile?",
    "regex /<script\\b[^>]*>([\\s\\S]*?)<\\/script>/gi is slow. Why?",
    "<xsl:template match=\"/\"><xsl:value-of select=\"a\"/></xsl:template> prints nothing",
    "JSON: {\"a\": {\"b\": [[[[[[[[[[1]]]]]]]]]]}}: how deep may it nest?",
    "&lt;script&gt; or &#60;script&#62;: which one is decoded by the browser first?",
    "vbscript:msgbox(1) in an old Outlook template: can I delete it?",
    "print(f\"{x!r:>{width}}\")  # what do the braces mean?\n\tif x is None:\n\t\treturn",
    "admin' -- and admin'# in the access log: same attack?",
]  # fmt: skip
SOURCES = ["guard/validation.py", "guard/output_filter.py", "ui/static/page.js", "clients/sse.py", "app.py"]
LONG = {
    "html": '<li onclick="go(1)"><script>track("x");</script></li>\n',
    "sql": "INSERT INTO t (a, b) VALUES ('x', 'y'); DELETE FROM u WHERE a = 'b' OR 1=1; -- why?\n",
    "javascript": "document.write('<script src=\"' + url + '\"></' + 'script>');\n",
    "shell": "kill -9 $(pgrep -f worker) && echo 'done'; exec \"$@\"\n",
}


def assert_unchanged(text: str) -> None:
    assert GUARD.validate_messages([Message("user", text)]) == (Message("user", text),)
    assert message_error(text, GUARD.configuration.limits) is None


@pytest.mark.parametrize("text", QUESTIONS)
def test_developer_question_passes_unchanged(text: str) -> None:
    assert_unchanged(text)


@pytest.mark.parametrize("name", SOURCES)
def test_pasted_source_file_passes_unchanged(name: str) -> None:
    text = (Path(__file__).parents[3] / name).read_text(encoding="utf-8")
    assert_unchanged("What does this file do?\n\n" + text[:31_000])


@pytest.mark.parametrize("line", LONG.values(), ids=LONG)
def test_code_of_32_000_characters_passes_unchanged(line: str) -> None:
    assert_unchanged((line * 1_000)[:32_000])
