"""Every word of the report, in English and Korean, and how numbers and durations are written in both."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """One text in both languages, unescaped."""

    en: str
    ko: str

    def html(self) -> str:
        """Both languages as escaped spans; the page's style shows the chosen one."""
        if self.en == self.ko:
            return html.escape(self.en)
        return f'<span lang="en">{html.escape(self.en)}</span><span lang="ko">{html.escape(self.ko)}</span>'

    def plot(self) -> dict[str, str]:
        """Both languages for a plot, in which ``<`` would start a tag."""
        return {"en": html.escape(self.en, quote=False), "ko": html.escape(self.ko, quote=False)}


def same(text: str) -> Text:
    """A name, which is alike in both languages."""
    return Text(text, text)


def word(key: str, **values: Text | str) -> Text:
    """The text of ``key`` with its ``{placeholders}`` filled in."""
    en, ko = WORDS[key]
    texts = {name: value if isinstance(value, Text) else same(value) for name, value in values.items()}
    return Text(
        en.format(**{name: text.en for name, text in texts.items()}),
        ko.format(**{name: text.ko for name, text in texts.items()}),
    )


def joined(*texts: Text) -> Text:
    """Sentences one after the other."""
    return Text(" ".join(text.en for text in texts), " ".join(text.ko for text in texts))


def count(value: float) -> str:
    """A whole number with thousands separated; ``–`` for nan."""
    return "–" if math.isnan(value) else f"{value:,.0f}".replace("-", "−")


def number(value: float) -> str:
    """Three significant digits below 1,000, whole above; ``–`` for nan."""
    if math.isnan(value):
        return "–"
    if value == 0 or abs(value) >= 100:
        return count(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 6)}f}".replace("-", "−")


def percent(share: float) -> str:
    """``share`` 0..1 in per cent, one decimal."""
    return "–" if math.isnan(share) else f"{share * 100:.1f}%".replace("-", "−")


def duration(seconds: float) -> Text:
    """The two largest units: ``1 h 12 min``, ``1시간 12분``; ``–`` for nan."""
    if math.isnan(seconds):
        return same("–")
    sign = "−" if seconds < 0 else ""
    size = abs(seconds)
    if size < 9.95:
        shown = "0" if size < 0.05 else f"{size:.1f}"
        return Text(f"{sign}{shown} s", f"{sign}{shown}초")
    whole = round(size) if size < 3_600 else round(size / 60) * 60
    for unit_s, part_s, unit, part in _UNITS:
        if whole >= unit_s:
            head, tail = divmod(round(whole / part_s) * part_s, unit_s)
            rest = tail // part_s
            en = f"{sign}{head:,} {unit[0]}" + (f" {rest} {part[0]}" if rest else "")
            ko = f"{sign}{head:,}{unit[1]}" + (f" {rest}{part[1]}" if rest else "")
            return Text(en, ko)
    return Text(f"{sign}{whole} s", f"{sign}{whole}초")


_S, _MIN, _H, _D = ("s", "초"), ("min", "분"), ("h", "시간"), ("d", "일")
_UNITS = ((86_400, 3_600, _D, _H), (3_600, 60, _H, _MIN), (60, 1, _MIN, _S))

WORDS: dict[str, tuple[str, str]] = {
    # The page
    "skip": ("Skip to the figures", "본문으로 건너뛰기"),
    "theme": ("Light / dark", "밝게 / 어둡게"),
    "no_script": (
        "Plots need JavaScript; every table below can be read without.",
        "그림을 보려면 JavaScript가 필요합니다. 아래 표는 그대로 읽을 수 있습니다.",
    ),
    "no_series": ("This run kept no series of samples.", "이 실행은 시계열을 남기지 않았습니다."),
    "as_table": ("Show as a table", "표로 보기"),
    "run_shown": ("Run shown below", "아래에 보일 실행"),
    "hint": (
        "Point at a line for its values; drag to zoom in, double-click to zoom out; click a legend entry "
        "to hide it.",
        "선을 가리키면 값이 보입니다. 끌면 확대되고, 두 번 누르면 되돌아갑니다. 범례를 누르면 숨겨집니다.",
    ),
    "others": ("{n} others", "그 밖 {n}곳"),
    # Headline
    "replayed": (
        "{source}: {jobs} jobs of {members} over {span}, on {gpus} GPUs at {sites}. Policy {policy}, seed "
        "{seed}.",
        "{source}: {span} 동안 {members}의 작업 {jobs}개, {sites}의 GPU {gpus}장. 정책 {policy}, 시드 "
        "{seed}.",
    ),
    "replayed_many": (
        "{source}: {jobs} jobs of {members} over {span}, on {gpus} GPUs at {sites}. {runs}: {names}; "
        "{seeds}.",
        "{source}: {span} 동안 {members}의 작업 {jobs}개, {sites}의 GPU {gpus}장. {runs}: {names}; {seeds}.",
    ),
    "members_1": ("one member", "한 기관"),
    "members_n": ("{n} members", "{n}개 기관"),
    "sites_1": ("one site", "한 사이트"),
    "sites_n": ("{n} sites", "{n}개 사이트"),
    "runs_n": ("{n} runs compared", "비교한 실행 {n}개"),
    "seeds_1": ("one seed", "시드 1개"),
    "seeds_n": ("{n} seeds each", "시드 {n}개씩"),
    "headline": (
        "{finished} of the jobs finished. Half waited {p50} or less and 99 in 100 waited {p99} or less, "
        "while jobs held {utilisation} of the GPU-time online.",
        "작업의 {finished}가 끝났습니다. 대기 시간은 절반이 {p50} 이하, 99%가 {p99} 이하였고, 켜져 있던 "
        "GPU 시간의 {utilisation}를 작업이 썼습니다.",
    ),
    "headline_instant": (
        "{finished} of the jobs finished. {share} started at once and 99 in 100 waited {p99} or less, "
        "while jobs held {utilisation} of the GPU-time online.",
        "작업의 {finished}가 끝났습니다. {share}는 바로 시작했고 99%는 대기 시간이 {p99} 이하였으며, 켜져 "
        "있던 GPU 시간의 {utilisation}를 작업이 썼습니다.",
    ),
    "headline_many": (
        "Mean waiting time was shortest under {best} ({best_wait}) and longest under {worst} "
        "({worst_wait}); jobs held {low} to {high} of the GPU-time online.",
        "평균 대기 시간은 {best}에서 가장 짧고({best_wait}) {worst}에서 가장 길었습니다({worst_wait}). "
        "켜져 있던 GPU 시간 가운데 작업이 쓴 몫은 {low}~{high}입니다.",
    ),
    "headline_same": (
        "Mean waiting time was {best_wait} in every run; jobs held {low} to {high} of the GPU-time online.",
        "평균 대기 시간은 모든 실행에서 {best_wait}였고, 켜져 있던 GPU 시간 가운데 작업이 쓴 몫은 "
        "{low}~{high}입니다.",
    ),
    "headline_empty": ("No job started.", "시작한 작업이 없습니다."),
    "guarantee_kept": ("Every guarantee was met in time.", "보장 몫은 모두 제때 지켜졌습니다."),
    "guarantee_broken": (
        "A guarantee was met too late {n} times.",
        "보장 몫을 제때 지키지 못한 일이 {n}번 있었습니다.",
    ),
    "guarantee_kept_many": (
        "Every guarantee was met in time in every run.",
        "모든 실행에서 보장 몫이 제때 지켜졌습니다.",
    ),
    "guarantee_broken_many": (
        "A guarantee was met too late {n} times in all runs together.",
        "모든 실행을 합쳐 보장 몫을 제때 지키지 못한 일이 {n}번 있었습니다.",
    ),
    "unfinished": (
        "When the run ended, {running} jobs were running and {waiting} waiting; {cancelled} had been "
        "cancelled and {rejected} rejected.",
        "끝날 때 실행 중인 작업이 {running}개, 대기 중인 작업이 {waiting}개였고, 취소가 {cancelled}개, "
        "거절이 {rejected}개였습니다.",
    ),
    # Key figures
    "key_utilisation": ("of GPU-time used", "GPU 시간 사용률"),
    "key_wait_mean": ("mean wait", "평균 대기"),
    "key_wait_p99": ("wait, 99th percentile", "대기 99백분위"),
    "key_lent": ("GPU-hours lent", "빌려준 GPU-시간"),
    "key_preemptions": ("preemptions", "선점"),
    "key_breaches": ("guarantees met late", "늦게 지킨 보장"),
    # Sections
    "sec_compare": ("Runs compared", "실행 비교"),
    "sec_use": ("Use and queue", "사용과 대기열"),
    "sec_wait": ("Waiting", "대기 시간"),
    "sec_lending": ("Lending", "빌려주고 빌리기"),
    "sec_frag": ("Fragmentation", "조각난 GPU"),
    "sec_power": ("Power and energy", "전력과 에너지"),
    "sec_starts": ("Promised and foretold starts", "약속하고 예측한 시작"),
    "sec_members": ("Every member", "모든 기관"),
    "sec_definitions": ("What the figures mean", "수치의 뜻"),
    "sec_notes": ("Data and assumptions", "자료와 가정"),
    "sec_provenance": ("How to repeat this", "다시 해 보려면"),
    # Compared
    "compare_text": (
        "Means over {n} seeds ± half of their 95% Student interval. Below each, the difference from "
        "{baseline}, paired by seed; one larger than its ± differs from zero at that level. The best mean "
        "of a row is bold.",
        "시드 {n}개의 평균 ± 95% 스튜던트 구간의 절반입니다. 아래 줄은 같은 시드끼리 견준 {baseline} 대비 "
        "차이이며, ±보다 크면 그 수준에서 0과 다릅니다. 줄마다 가장 좋은 평균은 굵은 글씨입니다.",
    ),
    "compare_one_seed": (
        "One seed each, so there are no intervals. Below each value, its difference from {baseline}. The "
        "best value of a row is bold.",
        "시드가 하나씩이라 구간이 없습니다. 값 아래 줄은 {baseline} 대비 차이이고, 줄마다 가장 좋은 값은 "
        "굵은 글씨입니다.",
    ),
    "compare_plots": ("Means and 95% intervals", "평균과 95% 구간"),
    "metric": ("Metric", "지표"),
    "points_n": ("{n} points", "{n}%포인트"),
    # Use
    "fig_use": ("GPUs in use, and what waits", "쓰이는 GPU와 기다리는 작업"),
    "cap_use": (
        "Top: GPUs held by jobs (area) under the GPUs online (dashed). Below: GPUs that waiting jobs ask "
        "for, and the number of those jobs. Long series keep each interval's minimum and maximum.",
        "위: 작업이 쓰는 GPU(채운 면)와 켜져 있는 GPU(점선). 아래: 대기 작업이 요청한 GPU와 대기 작업 수. "
        "긴 시계열은 구간마다 최솟값과 최댓값을 남겼습니다.",
    ),
    "fig_queue_runs": ("GPUs waited for, run by run", "실행별 대기 GPU"),
    "cap_queue_runs": ("GPUs that waiting jobs ask for.", "대기 작업이 요청한 GPU 수입니다."),
    "fig_members": ("Who used the GPUs", "누가 GPU를 썼나"),
    "cap_members": (
        "GPUs held by each member's jobs, stacked; interval means. The {n} members with most GPU-time, the "
        "others summed.",
        "기관별로 작업이 쓴 GPU를 쌓은 것(구간 평균). GPU 시간이 많은 {n}곳과 나머지의 합입니다.",
    ),
    "gpus_online": ("online", "켜짐"),
    "gpus_used": ("used", "사용"),
    "queue_gpus": ("GPUs waited for", "대기 GPU"),
    "queue_jobs": ("jobs waiting", "대기 작업"),
    "axis_gpus": ("GPUs", "GPU(장)"),
    "axis_jobs": ("jobs", "작업(개)"),
    "axis_nodes": ("nodes", "노드(개)"),
    "axis_hours": ("hours from the start", "시작부터 지난 시간(시간)"),
    "axis_days": ("days from the start", "시작부터 지난 날(일)"),
    "all_jobs": ("all jobs", "모든 작업"),
    # Waiting
    "fig_ecdf": ("How long jobs waited", "얼마나 기다렸나"),
    "cap_ecdf": (
        "Share of started jobs that waited no longer than the time below. A higher line is better.",
        "가로축 시간 이하로 기다린 작업의 비율(시작한 작업 기준). 선이 높을수록 좋습니다.",
    ),
    "fig_wait_size": ("Waiting time by job size", "작업 크기별 대기 시간"),
    "cap_wait_size": (
        "Median, 90th and 99th percentile for each number of GPUs that a job asks for; jobs in brackets. "
        "Log scale; waits below 1 s stand at 1 s.",
        "작업이 요청한 GPU 수별 중앙값과 90·99백분위(괄호는 작업 수). 로그 눈금이며 1초 미만은 1초에 "
        "놓았습니다.",
    ),
    "fig_wait_member": ("Waiting time by member", "기관별 대기 시간"),
    "cap_wait_member": (
        "The {n} members with most GPU-time, most at the top, then all others together; jobs in brackets. "
        "Log scale.",
        "GPU 시간이 많은 {n}곳을 많은 순서로, 맨 아래에 나머지를 모았습니다(괄호는 작업 수). 로그 "
        "눈금입니다.",
    ),
    "wait_axis": ("waiting time", "대기 시간"),
    "share_axis": ("share of jobs", "작업 비율"),
    "size_axis": ("GPUs of the job", "작업의 GPU 수"),
    "p50": ("median", "중앙값"),
    "p90": ("90%", "90%"),
    "p99": ("99%", "99%"),
    "fairness_text": (
        "Jain's index over members, of the share of time in the system that their jobs ran, is {jain} (1: "
        "all members alike).",
        "작업이 시스템에 있던 시간 가운데 실행된 비율의 기관 간 Jain 지수는 {jain}입니다(1이면 모두 같음).",
    ),
    "slowdown_text": (
        "Bounded slowdown: mean {mean}, median {p50}, 99th percentile {p99}.",
        "지연 배율은 평균 {mean}, 중앙값 {p50}, 99백분위 {p99}입니다.",
    ),
    "size_cpu": ("CPU only", "CPU만"),
    # Lending
    "lending_text": (
        "{lent} GPU-hours were lent, {share} of all that was used.",
        "빌려준 GPU-시간은 {lent}로, 쓰인 전체의 {share}입니다.",
    ),
    "reclaims": (
        "Owners took GPUs back {n} times: half had them within {p50}, 99 in 100 within {p99}, the slowest "
        "after {max}.",
        "주인이 회수한 것은 {n}번으로, 절반은 {p50}, 99%는 {p99} 안에 돌려받았고 가장 느린 것은 {max} "
        "걸렸습니다.",
    ),
    "reclaims_none": ("No owner had to take GPUs back.", "회수는 없었습니다."),
    "lending_none": (
        "No member used another's GPUs in this run.",
        "이 실행에서는 다른 기관의 GPU를 쓴 곳이 없습니다.",
    ),
    "sec_work": ("Kinds of work", "작업의 종류"),
    "work_text": (
        "Of {hours} GPU-hours {useful} were useful, {idle} held by services for their busiest minute, {saving} spent on checkpoints, "
        "{restarting} on starting again; the work of {lost} was lost to failures and preemption.",
        "GPU-시간 {hours} 가운데 {useful}가 유효했고, {idle}는 서비스가 가장 바쁜 1분을 위해 잡아 두었으며, {saving}는 체크포인트, "
        "{restarting}는 다시 시작하는 데 쓰였고, {lost}는 고장과 선점으로 잃었습니다.",
    ),
    "work_none": ("The load does not say of what kind its work is.", "부하에 작업의 종류가 적혀 있지 않습니다."),
    "work_other": ("no kind known", "종류 모름"),
    "fig_work": ("Where the GPU-time of each kind went", "종류마다 GPU-시간이 쓰인 곳"),
    "cap_work": (
        "Shares of each kind's GPU-time, those with most of it first.",
        "종류별 GPU-시간의 비율. 많이 쓴 것부터입니다.",
    ),
    "work_hours": ("({hours} h)", "({hours}시간)"),
    "work_axis": ("share of GPU-time (%)", "GPU-시간의 비율(%)"),
    "work_useful": ("useful", "유효"),
    "work_idle": ("held, nothing to do", "잡아 둠"),
    "work_saving": ("checkpoints", "체크포인트"),
    "work_restarting": ("starting again", "다시 시작"),
    "work_lost": ("lost", "잃음"),
    "col_work": ("kind", "종류"),
    "col_failures": ("failures", "고장"),
    "fig_lending": ("Who lent to whom", "누가 누구에게 빌려주었나"),
    "cap_lending": (
        "GPU-hours that the member below used of the member on the left. The members that lent and "
        "borrowed most, the others summed. Empty: nothing.",
        "왼쪽 기관의 GPU를 아래 기관이 쓴 GPU-시간. 많이 빌려주고 빌린 기관을 보이고 나머지는 합쳤습니다. "
        "빈칸은 없음입니다.",
    ),
    "lender": ("lender", "빌려준 기관"),
    "borrower": ("borrower", "빌린 기관"),
    "fig_balance": ("Lent and borrowed", "빌려준 양과 빌린 양"),
    "cap_balance": (
        "GPU-hours lent (right) and borrowed (left); the balance is in the table of every member.",
        "빌려준 GPU-시간(오른쪽)과 빌린 GPU-시간(왼쪽). 차이는 ‘모든 기관’ 표에 있습니다.",
    ),
    "lent": ("lent", "빌려줌"),
    "borrowed": ("borrowed", "빌림"),
    "gpu_hours": ("GPU-hours", "GPU-시간"),
    "fig_lent_time": ("GPUs on loan over time", "빌려준 GPU의 변화"),
    "cap_lent_time": (
        "GPUs that members other than the owner hold, summed.",
        "주인이 아닌 기관이 쓰는 GPU의 합입니다.",
    ),
    "fig_credits": ("Credits over time", "크레딧의 변화"),
    "cap_credits": (
        "Karma credits of the {n} members whose balance moved most. Lending earns, borrowing spends; all "
        "members' credits sum to zero.",
        "잔액이 가장 크게 움직인 {n}곳의 카르마 크레딧. 빌려주면 늘고 빌리면 줄며, 모두 더하면 0입니다.",
    ),
    "credits_axis": ("credits (normalised GPU-hours)", "크레딧(환산 GPU-시간)"),
    # Fragmentation
    "fig_frag": ("Free GPUs, and whether they can be used together", "남는 GPU와 함께 쓸 수 있는지"),
    "cap_frag": (
        "Top: all free GPUs (line), and those on partly used nodes (area), of no use to jobs that need "
        "whole nodes. Bottom: nodes wholly free.",
        "위: 남는 GPU 전체(선)와 일부만 빈 노드에 남은 GPU(채운 면). 노드를 통째로 쓰는 작업에는 쓸 수 "
        "없습니다. 아래: 통째로 빈 노드.",
    ),
    "free_gpus": ("free", "남음"),
    "fragmented": ("free on partly used nodes", "일부만 빈 노드에 남음"),
    "whole_nodes": ("nodes wholly free", "통째로 빈 노드"),
    "frag_text": (
        "On average {frag} free GPUs stood on partly used nodes, {share} of all GPUs online.",
        "일부만 빈 노드에 남은 GPU는 평균 {frag}장으로, 켜진 GPU의 {share}입니다.",
    ),
    # Power
    "fig_power": ("Power over time", "전력의 변화"),
    "cap_power": ("Electric power of all sites together.", "모든 사이트의 전력 합계입니다."),
    "cap_power_cap": (
        "Electric power of all sites together; dashed: the sum of the sites' caps.",
        "모든 사이트의 전력 합계. 점선은 사이트 전력 상한의 합입니다.",
    ),
    "fig_sites": ("Sites: mean, peak and cap", "사이트별 평균·최대·상한"),
    "cap_sites": (
        "Mean power (bar), peak (dot) and cap (line) of the {n} sites with most power.",
        "전력이 큰 사이트 {n}곳의 평균(막대), 최대(점), 상한(세로선)입니다.",
    ),
    "power_axis": ("power (MW)", "전력(MW)"),
    "power": ("power", "전력"),
    "cap": ("cap", "상한"),
    "mean": ("mean", "평균"),
    "peak": ("peak", "최대"),
    "energy_text": (
        "{energy} MWh over the run, {per} kWh for each GPU-hour used.",
        "전체 {energy} MWh, 쓰인 GPU-시간당 {per} kWh입니다.",
    ),
    "cap_kept": ("No sample stood above its site's cap.", "사이트 상한을 넘은 표본은 없습니다."),
    "cap_broken": ("{n} samples stood above their site's cap.", "사이트 상한을 넘은 표본이 {n}개 있습니다."),
    "cap_absent": ("No site has a cap.", "상한이 있는 사이트가 없습니다."),
    "power_none": ("Power was not modelled in this run.", "이 실행에서는 전력을 모사하지 않았습니다."),
    "site": ("site", "사이트"),
    # Promised and foretold starts
    "fig_start_error": ("Actual less promised start", "실제 시작과 약속한 시작의 차이"),
    "cap_start_error": (
        "Left: earlier than promised; right: later. Circle: median; thick bar: the middle half; thin bar: 5% to 95%; "
        "outer ticks: 1% and 99%. Promises scored in brackets. Logarithmic to both sides, even within a minute of 0.",
        "왼쪽은 약속보다 이른 시작, 오른쪽은 늦은 시작. 동그라미는 중앙값, 굵은 막대는 가운데 절반, 가는 막대는 "
        "5~95%, 바깥 눈금은 1%와 99%. 괄호는 채점한 약속 수. 양쪽 모두 로그 눈금이며 0에서 1분 안은 고른 눈금입니다.",
    ),
    "fig_error_share": ("How many starts were how far off", "얼마나 많은 시작이 얼마나 어긋났나"),
    "cap_error_share": (
        "Share of promised and of foretold starts by how far off they were, later ones at the top.",
        "약속한 시작과 예측한 시작이 실제와 어긋난 정도별 비율. 위쪽이 늦게 시작한 것입니다.",
    ),
    "promised_text": (
        "The policy promised {n} starts: {on_time} came within a minute or a tenth of the time ahead, {late} came late "
        "(be it by a moment), the median error is {p50}.",
        "정책이 약속한 시작 {n}건: {on_time}는 1분 또는 남은 시간의 10분의 1 안에 시작했고, {late}는 조금이라도 "
        "늦었으며, 오차의 중앙값은 {p50}입니다.",
    ),
    "foretold_text": (
        "The twin foretold {n} starts of waiting jobs by what was known then, while further jobs still came: {on_time} "
        "came as near, {late} later than foretold, the median error is {p50}.",
        "대기 작업의 시작을 그때 아는 것만으로 예측한 것 {n}건(그 뒤에도 작업은 계속 들어옴): {on_time}는 그만큼 "
        "가까웠고, {late}는 예측보다 늦었으며, 오차의 중앙값은 {p50}입니다.",
    ),
    "promise_none": (
        "No start was promised or foretold in this run.",
        "이 실행에서는 시작을 약속하거나 예측하지 않았습니다.",
    ),
    "promise_open": (
        "{n} whose jobs had not started when the run ended are not scored.",
        "끝날 때까지 시작하지 못한 작업의 {n}건은 채점하지 않았습니다.",
    ),
    "unforeseen": ("For {n} no start was foreseen.", "{n}건은 시작이 내다보이지 않았습니다."),
    "promise": ("Promise", "약속"),
    "promise_backfill": ("held for a blocked gang", "막힌 묶음을 위한 확보"),
    "promise_reclaim": ("taken back for a guarantee", "보장 몫의 회수"),
    "promise_rank": ("room made by rank", "순위에 따른 자리"),
    "promise_reserved": ("reserved in advance", "미리 한 예약"),
    "promised": ("promised by the policy", "정책의 약속"),
    "foretold": ("foretold by the twin", "트윈의 예측"),
    "foretold_ahead": ("foretold {range} ahead", "{range} 앞선 예측"),
    "of_quantile": ("{q}: {error}", "{q}: {error}"),
    "col_scored": ("Scored", "채점"),
    "col_open": ("Open", "미결"),
    "col_ahead": ("Ahead, median", "앞선 시간(중앙값)"),
    "col_mean_error": ("Mean error", "평균 오차"),
    "col_late": ("Late", "늦음"),
    "col_on_time": ("On time", "제때"),
    "error_axis": ("actual − promised start", "실제 시작 − 약속한 시작"),
    "start_share_axis": ("share of starts", "시작의 비율"),
    "late": ("{range} later", "{range} 늦음"),
    "early": ("{range} earlier", "{range} 이름"),
    "on_time": ("within 1 min", "1분 이내"),
    "more_than": ("> {a}", "{a} 넘게"),
    "from_to": ("{a} – {b}", "{a}~{b}"),
    "up_to": ("up to {a}", "{a} 이하"),
    "error": ("Actual − promised", "실제 − 약속"),
    # The table of members
    "members_text": (
        "Press a heading to sort. Times are waiting times.",
        "제목을 누르면 정렬됩니다. 시간은 대기 시간입니다.",
    ),
    "col_member": ("Member", "기관"),
    "col_guarantee": ("Guaranteed GPUs", "보장 GPU"),
    "col_jobs": ("Jobs", "작업"),
    "col_finished": ("Finished", "끝남"),
    "col_mean": ("Mean wait", "평균 대기"),
    "col_p50": ("Median", "중앙값"),
    "col_p90": ("90%", "90%"),
    "col_p99": ("99%", "99%"),
    "col_slowdown": ("Slowdown", "지연 배율"),
    "col_used": ("Used GPU-h", "사용 GPU-시간"),
    "col_lent": ("Lent GPU-h", "빌려준 GPU-시간"),
    "col_borrowed": ("Borrowed GPU-h", "빌린 GPU-시간"),
    "col_balance": ("Balance", "차이"),
    "col_energy": ("Energy (MWh)", "에너지(MWh)"),
    # Compared metrics
    "wait_mean_s": ("Mean wait", "평균 대기"),
    "wait_p50_s": ("Median wait", "대기 중앙값"),
    "wait_p99_s": ("Wait, 99th percentile", "대기 99백분위"),
    "jct_mean_s": ("Mean completion time", "평균 완료 시간"),
    "jct_p99_s": ("Completion time, 99th percentile", "완료 시간 99백분위"),
    "slowdown_mean": ("Mean bounded slowdown", "평균 지연 배율"),
    "utilisation": ("Utilisation", "사용률"),
    "goodput": ("Goodput", "유효 사용률"),
    "jain": ("Jain's index over members", "기관 간 Jain 지수"),
    "finished": ("Jobs finished", "끝난 작업"),
    "preemptions": ("Preemptions", "선점"),
    "guarantee_breaches": ("Guarantees met late", "늦게 지킨 보장"),
    "lent_gpu_h": ("GPU-hours lent", "빌려준 GPU-시간"),
    "reclaim_p99_s": ("Reclaim, 99th percentile", "회수 99백분위"),
    "promise_mae_s": ("Error of promised starts", "약속한 시작의 오차"),
    "energy_kwh": ("Energy (MWh)", "에너지(MWh)"),
    "cell_open_gpu_h": ("Cell sites: GPU-hours released", "기지국: 내놓은 GPU-시간"),
    "cell_used_gpu_h": ("Cell sites: GPU-hours used", "기지국: 쓰인 GPU-시간"),
    "cell_night_open_gpu_h": ("Cell sites, 22 to 6: GPU-hours released", "기지국 22~6시: 내놓은 GPU-시간"),
    "cell_night_used_gpu_h": ("Cell sites, 22 to 6: GPU-hours used", "기지국 22~6시: 쓰인 GPU-시간"),
    # Definitions
    "def_wait": ("Wait", "대기 시간"),
    "def_wait_text": (
        "All time a job was queued, over all its attempts. Over jobs that started; jobs that never did are "
        "counted apart.",
        "모든 시도에 걸쳐 작업이 대기열에 있던 시간. 시작한 작업만 셈하고, 시작하지 못한 작업은 따로 셉니다.",
    ),
    "def_jct": ("Completion time", "완료 시간"),
    "def_jct_text": ("From submission to end, over finished jobs.", "제출에서 끝까지. 끝난 작업만 셈합니다."),
    "def_slowdown": ("Bounded slowdown", "지연 배율"),
    "def_slowdown_text": (
        "Completion time ÷ useful run time, where run times below 10 s count as 10 s; at least 1.",
        "완료 시간 ÷ 유효 실행 시간. 10초 미만의 실행은 10초로 보며 1보다 작지 않습니다.",
    ),
    "def_utilisation": ("Utilisation", "사용률"),
    "def_utilisation_text": (
        "GPU-time held by jobs ÷ GPU-time online, from the first submission to the end of the run.",
        "첫 제출부터 끝까지, 작업이 쓴 GPU 시간 ÷ 켜져 있던 GPU 시간.",
    ),
    "def_goodput": ("Goodput", "유효 사용률"),
    "def_goodput_text": (
        "Utilisation without the GPU-time whose work was lost to preemption and failure, of starting again and of checkpoints.",
        "선점과 고장으로 잃은 작업, 다시 시작하기와 체크포인트의 GPU 시간을 뺀 사용률.",
    ),
    "def_jain": ("Jain's index", "Jain 지수"),
    "def_jain_text": (
        "(Σx)² ÷ (nΣx²) over members, x being the share of their jobs' time in the system that they ran; "
        "1: equal.",
        "기관별로 작업이 시스템에 있던 시간 중 실행된 비율 x의 (Σx)² ÷ (nΣx²). 1이면 모두 같습니다.",
    ),
    "def_guarantee": ("Guarantee met late", "늦게 지킨 보장"),
    "def_guarantee_text": (
        "Demand within a member's guarantee that was still unmet one notice period after it came up.",
        "기관의 보장 몫 안의 수요가 통지 기간이 지난 뒤에도 채워지지 않은 경우.",
    ),
    "def_lent": ("Lent, borrowed", "빌려줌, 빌림"),
    "def_lent_text": (
        "GPU-time that a member's jobs held beyond its own guarantee, on GPUs of the lender.",
        "기관의 작업이 자기 보장 몫을 넘어 빌려준 기관의 GPU를 쓴 시간.",
    ),
    "def_reclaim": ("Reclaim", "회수"),
    "def_reclaim_text": (
        "From an owner's demand for lent GPUs to those GPUs being in its hands, notice included.",
        "주인이 빌려준 GPU를 달라고 한 때부터 손에 들어올 때까지(통지 기간 포함).",
    ),
    "def_preemption": ("Preemption", "선점"),
    "def_preemption_text": (
        "A running job, whole gang, stopped by a decision; failures are not counted.",
        "실행 중인 작업(묶음 전체)을 결정에 따라 멈춘 것. 고장은 세지 않습니다.",
    ),
    "def_start": ("On time", "제때"),
    "def_start_text": (
        "A start within a minute of the promised one, or within a tenth of the time that it was promised ahead, "
        "whichever is more. Errors are actual less promised start; each promise is scored by the job's next start.",
        "약속한 시각에서 1분, 또는 앞서 약속한 시간의 10분의 1 가운데 큰 쪽 안의 시작. 오차는 실제 시작에서 약속한 "
        "시작을 뺀 것이며, 약속마다 작업의 다음 시작으로 채점합니다.",
    ),
    # Notes and provenance
    "notes_language": ("Notes stand as the run recorded them.", "주석은 실행이 기록한 그대로입니다."),
    "notes_none": ("The run recorded no notes.", "실행이 남긴 주석이 없습니다."),
    "prov_text": (
        "The same input, policy and seed give the same digest, on any machine and any number of processes.",
        "같은 입력과 정책과 시드는 어느 기계에서 몇 개의 프로세스로 돌려도 같은 다이제스트를 냅니다.",
    ),
    "prov_run": ("Run", "실행"),
    "prov_policy": ("Policy", "정책"),
    "prov_seed": ("Seed", "시드"),
    "prov_digest": ("Digest of the decisions", "결정 다이제스트"),
    "prov_trace": ("Digest of the load", "부하 다이제스트"),
    "prov_cost": ("Time and memory", "시간과 메모리"),
    "prov_cost_value": ("{wall} s, {cpu} CPU-s, {rss} MB", "{wall}초, CPU {cpu}초, {rss} MB"),
    "prov_events": ("Events, decisions", "사건, 결정"),
    "prov_faults": ("Node failures, jobs hit, quarantined", "노드 고장, 피해 작업, 격리"),
    "prov_backfilled": ("Backfilled starts, resizes", "백필 시작, 크기 변경"),
    "prov_versions": ("Versions", "버전"),
    "prov_source": ("Load", "부하"),
}
