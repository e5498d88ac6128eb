process MULTIQC {
    tag 'report'

    input:
    tuple path(content), path(versions), path(config)

    output:
    path 'multiqc_report.html', emit: report
    path 'multiqc_report_data', emit: data
    // no versions here: this task waits for the end of that topic

    script:
    """
    multiqc ${content} ${versions} --config ${config} --config ${content}/multiqc_order.yml --filename multiqc_report.html --force --no-version-check
    # what is published names no folder of this machine but those that parameters name
    rm -f multiqc_report_data/multiqc.log
    python - <<'END'
    import os, pathlib, re
    here = os.getcwd()
    for path in [pathlib.Path('multiqc_report.html'), *pathlib.Path('multiqc_report_data').iterdir()]:
        if path.suffix in ('.html', '.json', '.txt'):
            text = path.read_text().replace(here + '/', '').replace(here, '.')
            if path.suffix == '.json':
                text = re.sub(r'"/[^"]*/(site-packages/[^"]*")', r'"\\1', text)
                text = re.sub(r'"/[^" ]*/(multiqc[ "])', r'"\\1', text)
            path.write_text(text)
    END
    """

    stub:
    """
    touch multiqc_report.html
    mkdir multiqc_report_data
    """
}
