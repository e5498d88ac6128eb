include { memoryFor } from '../../functions/resources'

process MULTIQC {
    tag 'report'
    memory { memoryFor('multiqc', '3 GB', [], [], task) }

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
    import html, json, os, pathlib, re
    here = os.getcwd()
    for path in [*pathlib.Path().glob('multiqc_report.html'), *pathlib.Path('multiqc_report_data').glob('*')]:
        if path.suffix in ('.html', '.json', '.txt'):
            text = path.read_text(encoding='utf-8', errors='surrogateescape')
            for own in (here, json.dumps(here)[1:-1], html.escape(here)):
                text = text.replace(own + '/', '').replace(own, '.')
            if path.suffix == '.json':
                text = re.sub(r'"/[^"]*/(site-packages/[^"]*")', r'"\\1', text)
                text = re.sub(r'"/[^" ]*/(multiqc[ "])', r'"\\1', text)
            path.write_text(text, encoding='utf-8', errors='surrogateescape')
    END
    """

    stub:
    """
    touch multiqc_report.html
    mkdir multiqc_report_data
    """
}
