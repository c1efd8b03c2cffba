def print_summary(results):
    print(f"Report: {results / 'report.html'}")
