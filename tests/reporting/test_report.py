"""The HTML report: opened in a browser, and with parts of the run missing."""

import json
import re
import shutil
import tempfile

import pytest

from vlarl.errors import UserError
from vlarl.reporting.report import headline, load_run_files, p_text, write_report

SECTIONS = ["result", "videos", "learning", "tasks", "probes", "curriculum", "health", "sft", "time", "card"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]


def sections(folder) -> list[str]:
    return re.findall(r'<section id="(\w+)"', write_report(folder).read_text())


def edit_summary(folder, **changes) -> None:
    path = folder / "summary.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def text_of(folder) -> str:
    return write_report(folder).read_text()


@pytest.fixture
def browser():
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("no Chromium with chromedriver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=CHROMEDRIVER))
        yield driver
        driver.quit()


def open_at(browser, path, *, width: int, scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.resolve().as_uri())


def test_report_in_a_browser(run_folder, browser):
    path = write_report(run_folder)
    open_at(browser, path, width=1280)
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().height)"
    for section in SECTIONS:
        (height,) = browser.execute_script(script, f"#{section}")
        assert height > 50, section
    assert browser.find_element("css selector", "h1").text.replace("\xa0", " ").endswith("success from 53 % to 93 %")
    charts = browser.execute_script(script, "svg[role=img]")
    # 2 interval strips, 2 learning curves, 8 task bars, 3 probes, 2 curricula, 6 panels, 2 experts, 1 SFT, 2 times.
    assert len(charts) == 28
    assert min(charts) > 15
    assert browser.execute_script("return [...document.querySelectorAll('svg[role=img]')].every(e => e.ariaLabel)")
    assert_videos_play(browser)
    # A broken path or attribute of a chart is a console error too.
    assert browser.get_log("browser") == []


def assert_videos_play(browser) -> None:
    browser.set_script_timeout(20)
    playable = browser.execute_async_script("""
        const done = arguments[0], videos = [...document.querySelectorAll("video")];
        Promise.all(videos.map(async video => {
            video.muted = true;
            await video.play();
            return [video.videoWidth, video.duration, video.ariaLabel];
        })).then(done, error => done(String(error)));
    """)
    assert len(playable) == 2, playable
    for width, seconds, label in playable:
        assert width == 198
        assert seconds == pytest.approx(35 / 13.3, abs=0.1)
        assert "start 3: SFT failure, SFT + RL success" in label


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_fits_a_phone_and_follows_the_colour_scheme(run_folder, browser, scheme):
    open_at(browser, write_report(run_folder), width=390, scheme=scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (brightness > 200) == (scheme == "light")


def test_report_loads_nothing(run_folder):
    page = text_of(run_folder)
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    sources = re.findall(r'(?:src|href)="([^"]{0,22})', page)
    assert len(sources) == 4
    assert all(source.startswith(("data:", "#")) for source in sources), sources
    assert [p.name for p in run_folder.glob("*.tmp")] == []


def test_missing_parts_leave_out_their_sections(run_folder):
    assert sections(run_folder) == SECTIONS
    shutil.rmtree(run_folder / "videos")
    (run_folder / "sft_metrics.jsonl").unlink()
    edit_summary(run_folder, demonstrations=None, probes=None)
    assert sections(run_folder) == [s for s in SECTIONS if s not in ("videos", "probes", "sft")]
    # Before RL.
    (run_folder / "metrics.jsonl").unlink()
    edit_summary(run_folder, rl=None, lift=None, p_value=None, warnings=None, env_steps_per_second=None)
    assert sections(run_folder) == ["result", "tasks", "time", "card"]
    assert headline(load_run_files(run_folder)).replace("\xa0", " ") == "SFT succeeds in 53 % of episodes"


def test_report_of_a_run_without_summary(run_folder):
    for name in ("summary.json", "sft_metrics.jsonl", "videos/index.json"):
        (run_folder / name).unlink()
    assert sections(run_folder) == ["learning", "curriculum", "health", "time", "card"]
    page = text_of(run_folder)
    assert "Success in training" in page
    # Nothing is said about what is not known yet.
    assert "<caption>Run</caption>" in page
    assert "<caption>Machine</caption>" not in page
    assert "raised no warning" not in page


def test_report_after_one_iteration(run_folder):
    path = run_folder / "metrics.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    (run_folder / "summary.json").unlink()
    page = text_of(run_folder)
    # Losses of the policy do not exist in the critic warm-up.
    assert "Approximate KL" in page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()


def test_headline_speaks_of_a_change_only_if_the_test_does(run_folder):
    lift = {"points": 4.0, "ci95": [-6.0, 14.0], "p_value": 0.42}
    edit_summary(run_folder, lift={"greedy": lift, "sampled": lift})
    assert headline(load_run_files(run_folder)).startswith("No clear change")
    lift = {"points": -40.0, "ci95": [-50.0, -30.0], "p_value": 1e-9}
    edit_summary(run_folder, lift={"greedy": lift, "sampled": lift})
    assert "lowered" in headline(load_run_files(run_folder))
    assert "\N{MINUS SIGN}40\xa0points" in text_of(run_folder)


def test_warnings_and_truncation_are_shown(run_folder):
    assert "raise ppo.entropy_coef" in text_of(run_folder)
    edit_summary(run_folder, warnings=[], truncated_by_time=True)
    page = text_of(run_folder)
    assert "The monitor raised no warning" in page
    assert "Truncated by time" in page


def test_text_from_the_run_is_escaped(run_folder):
    edit_summary(run_folder, instructions={"1": "<script>alert(1)</script>", "8": "a & b"})
    page = text_of(run_folder)
    assert "<script>alert" not in page
    assert "a &amp; b" in page


def test_p_values():
    assert p_text(0.0312) == "p\xa0=\xa00.031"
    assert p_text(3.1e-9) == "p\xa0=\xa03·10⁻⁹"
    assert p_text(1.0) == "p\xa0=\xa01.000"


def test_bad_folders(tmp_path, run_folder):
    with pytest.raises(UserError, match=r"holds no run.*vlarl quickstart --output"):
        write_report(tmp_path / "nothing")
    (run_folder / "videos/task_1_start_03.mp4").unlink()
    with pytest.raises(UserError, match="task_1_start_03.mp4 is missing"):
        write_report(run_folder)
    (run_folder / "summary.json").write_text("{")
    with pytest.raises(UserError, match="summary.json is damaged"):
        write_report(run_folder)


def test_failures_are_counted_by_segment(run_folder):
    counts = {"sft": {"grasp missed": 15, "dropped": 6}, "rl": {"grasp missed": 4, "dropped": 0}}
    video = {"file": "task_1_start_03.mp4", "stage": "sft", "kind": "dropped", "task_id": 1, "start_index": 3}
    (run_folder / "failures.json").write_text(json.dumps({"counts": counts, "videos": [video]}))
    assert "failures" in sections(run_folder)
    text = text_of(run_folder)
    assert "<tr><td>grasp missed</td><td>15</td><td>4</td></tr>" in text
    assert "SFT: dropped" in text and text.count("<video") == 3
    (run_folder / "videos" / video["file"]).unlink()
    with pytest.raises(UserError, match="is missing"):
        write_report(run_folder)
